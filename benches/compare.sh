#!/usr/bin/env bash
# Builds Sconce and llama.cpp's llama-server, and compares them on SmolLM2-135M (Q4_1).
# Arguments go to compare.py, such as `--rounds 3` or `--peer-model model-q4_0.gguf`.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --bin sconce
sconce=$PWD/target/release/sconce
peer=$(benches/build-llama-server.sh)
"$sconce" pull smollm2:135m
model=$("$sconce" list --json | python3 -c '
import json, sys
print(next(m["model"] for m in json.load(sys.stdin) if m["name"] == "smollm2:135m"))')
printf '%s\n' "$(uname -srm), $(nproc) CPUs: $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)" \
    "commit $(git describe --always --dirty)"
exec python3 benches/compare.py --sconce "$sconce" --llama-server "$peer" --model "$model" "$@"
