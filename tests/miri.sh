#!/usr/bin/env bash
# Runs the tests of the kernels' thread pool under Miri, which finds data races and undefined
# behavior. Needs a nightly toolchain that has it: rustup component add miri --toolchain nightly.
# It takes four minutes on two cores; arguments go to the tests: `tests/miri.sh panels`.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! cargo +nightly miri --version >/dev/null 2>&1; then
    echo "tests/miri.sh: skipped: there is no nightly toolchain with Miri"
    exit 0
fi
[ $# -gt 0 ] || set -- pool
# The pool reads the clock.
MIRIFLAGS=-Zmiri-disable-isolation CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target/miri} \
    exec cargo +nightly miri test -p sconce-kernels --lib -- "$@"
