#!/usr/bin/env bash
# Runs the kernels' tests under AddressSanitizer: a read or write outside of an allocation, or of
# freed memory, ends the run. The compiler carries it, behind a switch of its own; x86-64 Linux.
# Packed weights and the KV cache are mapped memory, whose ends it doesn't know: what a kernel reads
# or writes beyond those goes unseen.
# What it adds to kernels keeps them from being whole, so that test is left out.
# It takes five minutes on two cores; arguments go to the tests: `tests/sanitize.sh matmul`.
set -euo pipefail
cd "$(dirname "$0")/.."
target=x86_64-unknown-linux-gnu

if [ "$(uname -sm)" != "Linux x86_64" ]; then
    echo "tests/sanitize.sh: skipped: this is no x86-64 Linux"
    exit 0
fi
# A panic in a thread that a test expects leaks what the thread held.
ASAN_OPTIONS=detect_leaks=0 RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address" \
    CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target/sanitize} exec cargo test -p sconce-kernels \
    --target "$target" --lib --tests -- --skip inlined "$@"
