#!/usr/bin/env bash
# Builds Sconce, its benches and llama.cpp, and compares them: on SmolLM2-135M (Q4_1), or with
# `--model-shape NAME --quant FORMAT` on random weights. Arguments go to compare.py; see --help.
set -euo pipefail
cd "$(dirname "$0")/.."
case " $* " in *" --help "* | *" -h "*) exec python3 benches/compare.py --help ;; esac

# The executable of a bench, built.
bench() {
    cargo bench --no-run --message-format=json "$@" | python3 -c '
import json, sys
built = [json.loads(line) for line in sys.stdin]
print(next(b["executable"] for b in built if b.get("executable")))'
}

cargo build --release --bin sconce
sconce=$PWD/target/release/sconce
forward=$(bench --bench forward)
roofline=$(bench --package sconce-kernels --bench roofline)
llama=$(benches/build-llama.sh)
python=$PWD/target/peer/venv/bin/python
case " $* " in
*" --model-shape"*)
    "$python" -c 'import gguf, numpy' 2>/dev/null ||
        "$python" -m pip install --quiet gguf numpy >&2
    ;;
esac
"$sconce" pull smollm2:135m
model=$("$sconce" list --json | python3 -c '
import json, sys
print(next(m["model"] for m in json.load(sys.stdin) if m["name"] == "smollm2:135m"))')
exec python3 benches/compare.py --sconce "$sconce" --llama "$llama" --forward "$forward" \
    --roofline "$roofline" --python "$python" --model "$model" "$@"
