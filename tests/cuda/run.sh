#!/usr/bin/env bash
# The GPU kernels and the engine on top of them, without a GPU: on the stand-in for CUDA's driver, which
# runs kernels on the processor. `docs/cuda-testing.md` says what that shows and what not. Arguments are
# nextest's. Needs CUDA_HOME, or fetches what it needs under target/.
set -euo pipefail
cd "$(dirname "$0")/../.."
export CUDA_HOME=${CUDA_HOME:-$(kernels/cuda/toolkit.sh)}
stand_in=$PWD/target/cuda-stand-in
tests/cuda/build.sh "$stand_in" >/dev/null
cargo test --workspace --features cuda --no-run --quiet
python3 tests/cuda/resources.py

# That the benchmark of attention can be run; its figures say nothing here.
LD_LIBRARY_PATH=$stand_in${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} cargo test --workspace --features cuda --quiet \
    --bench gpu_attention -- --quick >/dev/null

# Each test in a process of its own, as counters and faults are a process's.
LD_LIBRARY_PATH=$stand_in${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} cargo nextest run --workspace \
    --features cuda --no-fail-fast -E 'binary(cuda) + binary(gpu)' "$@"
