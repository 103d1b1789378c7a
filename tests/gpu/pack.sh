#!/usr/bin/env bash
# Builds what tests/gpu/check.sh runs and lays it, stripped, into target/gpu/: the tests of kernels and of
# the engine, the benchmarks, the program itself, and compute-sanitizer from Python's index. They need a
# driver and cuBLASLt where they run, and no CUDA installation here.
set -euo pipefail
cd "$(dirname "$0")/../.."
export CUDA_HOME=${CUDA_HOME:-$(kernels/cuda/toolkit.sh)}
out=target/gpu
mkdir -p "$out"

# The path of the executable of a target that cargo's messages name: the tests' come with the program's.
executable() {
    python3 -c '
import json, sys
for message in map(json.loads, sys.stdin):
    if message.get("executable") and message["target"]["name"] == sys.argv[1]:
        print(message["executable"])' "$1" | tail -n 1
}

# As NAME, the target TARGET, by the rest of cargo's arguments.
lay() {
    local name=$1 target=$2
    shift 2
    cp "$(cargo "$@" --features cuda --message-format json --quiet | executable "$target")" "$out/$name"
    strip "$out/$name"
}

lay kernels cuda test --release -p sconce-kernels --test cuda --no-run
lay engine gpu test --release -p sconce --test gpu --no-run
lay bench gpu bench -p sconce --bench gpu --no-run
lay attention gpu_attention bench -p sconce-kernels --bench gpu_attention --no-run
benches/flashinfer/build.sh
cp target/flashinfer/attention "$out/flashinfer"
# That which is built with the tests, to build it once.
lay sconce sconce test --release -p sconce --test gpu --no-run
xz -T0 -6 -f "$out/sconce"

# 37 MiB of programs, 10 as an archive. The toolkit of kernels/cuda/toolkit.sh has none.
sanitizer=nvidia-cuda-sanitizer-api==13.0.85
if [ ! -f "$out/compute-sanitizer.tar.xz" ]; then
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    python3 -m pip download --quiet --no-deps --disable-pip-version-check --dest "$scratch" "$sanitizer"
    python3 -m zipfile -e "$scratch"/*.whl "$scratch"
    chmod +x "$scratch"/nvidia/cu13/compute-sanitizer/{compute-sanitizer,TreeLauncher*}
    XZ_OPT=-6 tar -cJf "$out/compute-sanitizer.tar.xz" -C "$scratch/nvidia/cu13" \
        --exclude docs --exclude include --exclude samples compute-sanitizer
fi
du -ch "$out"/*
if [ "$(du -cm "$out"/* | tail -1 | cut -f1)" -gt 60 ]; then
    echo "together they are larger than 60 MiB" >&2
    exit 1
fi
