#!/bin/sh
# Builds the stand-in for the CUDA driver, with every kernel inside, and for cuBLASLt:
#   build.sh OUT_DIR           libcuda.so.1 and libcublasLt.so.13
#   build.sh OUT_DIR --test    and runs the stand-in's own tests
# Compiles only what changed since the last time. CUDA_HOME names a toolkit, of which only headers are used.
set -eu
cd "$(dirname "$0")/../.."
out=${1:?usage: build.sh OUT_DIR [--test]}
cuda=${CUDA_HOME:-target/cuda-toolkit/nvidia/cu13}
[ -f "$cuda/include/cuda.h" ] || { echo "no CUDA headers in $cuda; set CUDA_HOME" >&2; exit 1; }
mkdir -p "$out/objects"
out=$(cd "$out" && pwd)
CUDA_HOME=$cuda exec make -rR --no-print-directory -j"$(nproc)" -f tests/cuda/Makefile OUT="$out" \
    "$([ "${2:-}" = --test ] && echo test || echo all)"
