#!/usr/bin/env bash
# Builds what tests/gpu/check.sh runs and lays it, stripped, into target/gpu/: the tests of kernels and of
# the engine, and the benchmark. They need a driver and cuBLASLt where they run, and no CUDA installation
# here.
set -euo pipefail
cd "$(dirname "$0")/../.."
export CUDA_HOME=${CUDA_HOME:-$(kernels/cuda/toolkit.sh)}
out=target/gpu
mkdir -p "$out"

# The path of the executable that cargo's messages name.
executable() {
    python3 -c '
import json, sys
found = [message["executable"] for message in map(json.loads, sys.stdin) if message.get("executable")]
print(found[-1])'
}

lay() {
    local name=$1
    shift
    cp "$(cargo "$@" --features cuda --message-format json --quiet | executable)" "$out/$name"
    strip "$out/$name"
}

lay kernels test --release -p sconce-kernels --test cuda --no-run
lay engine test --release -p sconce --test gpu --no-run
lay bench bench -p sconce --bench gpu --no-run
du -ch "$out"/*
if [ "$(du -cm "$out"/* | tail -1 | cut -f1)" -gt 60 ]; then
    echo "together they are larger than 60 MiB" >&2
    exit 1
fi
