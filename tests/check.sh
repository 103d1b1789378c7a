#!/usr/bin/env bash
# The checks that need no test run: formatting, lints, import rules, dependencies.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo fmt --all --check
tests/imports.sh
cargo clippy --workspace --all-targets --quiet -- -D warnings
# Without nvcc the kernels are missing, and the rest can be built.
env -u CUDA_HOME -u CUDA_PATH NVCC=none cargo check -p sconce-kernels --features cuda --quiet \
    --target-dir target/without-nvcc
if CUDA_HOME=$(kernels/cuda/toolkit.sh); then export CUDA_HOME; fi
cargo clippy -p sconce-kernels -p sconce --features cuda --all-targets --quiet -- -D warnings
# Advisories need the network's advisory database: `cargo deny check` runs them too.
if cargo deny --version >/dev/null 2>&1; then
    cargo deny check bans licenses sources
else
    echo "cargo-deny is not installed: licences and bans were NOT checked"
fi
