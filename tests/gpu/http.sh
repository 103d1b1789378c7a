#!/usr/bin/env bash
# Tokens per second through the router and HTTP, of a shape's random weights on a GPU.
#     tests/gpu/http.sh SCONCE SHAPE STREAMS FOLDER [WORKER FLAGS...]
# Prompts of some 512 bytes, which are tokens there, and 256 tokens each in answer. FOLDER gets the
# report, http.json, and the logs.
set -euo pipefail
cd "$(dirname "$0")/../.."
sconce=$(realpath "$1") shape=$2 streams=$3 out=$(realpath "$4")
shift 4
scratch=$(mktemp -d)
trap 'kill "${worker:-}" "${router:-}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$scratch"' EXIT
python3 tests/gpu/model.py "$shape" "$scratch/model" --weights "${WEIGHTS:-bf16}"

"$sconce" worker --model "$scratch/model" --name "$shape" --listen "unix:$scratch/worker" \
    --load-format dummy --device cuda --max-num-seqs "$streams" --max-queue 4096 "$@" 2>"$out/worker.log" &
worker=$!
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$sconce" router --listen "127.0.0.1:$port" --worker "unix:$scratch/worker" --no-auth \
    --database "$scratch/router.db" 2>"$out/router.log" &
router=$!
url=http://127.0.0.1:$port
for _ in $(seq 600); do
    curl -sf "$url/v1/models" 2>/dev/null | grep -q "$shape" && break
    kill -0 "$worker" || { tail -n 5 "$out/worker.log"; exit 1; }
    sleep 0.2
done
"$sconce" bench --url "$url" --model "$shape" --endpoint completions --concurrency "$streams" \
    --requests "$((2 * streams))" --input-tokens "${INPUT_WORDS:-90}" --output-tokens "${OUTPUT_TOKENS:-256}" \
    --ignore-eos --warmup 2 --no-live --extra-body '{"temperature": 1}' --output-json "$out/http.json"
