#!/usr/bin/env bash
# Runs the kernels' tests for 64-bit ARM on a machine that is none, under QEMU, and with them the
# NEON kernels, which no other test on such a machine compiles. It installs nothing; what it needs:
#
#   the target      rustup target add aarch64-unknown-linux-gnu, or any rustc that has it in $RUSTC
#   a linker        aarch64-linux-gnu-gcc (Debian: gcc-aarch64-linux-gnu, libc6-dev-arm64-cross)
#   an emulator     qemu-aarch64, or qemu-aarch64-static (Debian: qemu-user, qemu-user-static)
#
# Cargo's own variables take their place: CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER and _RUNNER.
# Where one is missing it says "skipped" and which, and passes; with NEON_REQUIRED=1 it fails.
# It takes ten minutes on two cores; arguments go to the tests: `tests/neon.sh matmul`.
set -euo pipefail
cd "$(dirname "$0")/.."
target=aarch64-unknown-linux-gnu

skip() {
    echo "tests/neon.sh: skipped: $1"
    exit "${NEON_REQUIRED:-0}"
}

libraries=$("${RUSTC:-rustc}" --print target-libdir --target "$target" 2>/dev/null) || libraries=
compgen -G "$libraries/libstd-*.rlib" >/dev/null || skip "the compiler has no $target"

export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=${CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER:-aarch64-linux-gnu-gcc}
linker=$CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER
command -v "$linker" >/dev/null || skip "no linker $linker"

if [ -z "${CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER:-}" ]; then
    emulator=$(command -v qemu-aarch64 || command -v qemu-aarch64-static) || skip "no qemu-aarch64"
    # The linker knows where the target's C library is.
    root=$(realpath "$(dirname "$("$linker" -print-file-name=libc.so.6)")/..")
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$emulator -cpu max -L $root"
fi

# Compiled apart, since $RUSTC may be another compiler. Without debug assertions the kernels are
# inlined as in a release.
CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target/neon} exec cargo test -p sconce-kernels \
    --target "$target" --config 'profile.dev.package.sconce-kernels.debug-assertions=false' \
    --lib --tests -- "$@"
