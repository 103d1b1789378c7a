#!/usr/bin/env bash
# Everything that needs a GPU, with what tests/gpu/pack.sh built: kernels against 64-bit references, the
# engine against the processor's, the benchmark, and the kernels again under compute-sanitizer. Builds
# nothing. Without a GPU it says so and has run nothing.
#     tests/gpu/check.sh [FOLDER] [--quick]
# FOLDER, target/gpu unless said otherwise, holds the binaries; results are written to $OUT, or beside them.
# --quick leaves out the largest shape and the sanitizer.
set -uo pipefail
cd "$(dirname "$0")/../.."
folder=target/gpu quick=
for argument in "$@"; do
    case $argument in
        --quick) quick=1 ;;
        *) folder=$argument ;;
    esac
done
out=${OUT:-$folder}
failed=0

if ! ldconfig -p 2>/dev/null | grep -q 'libcuda\.so\.1' && ! nvidia-smi >/dev/null 2>&1; then
    echo "SKIPPED: this machine has no NVIDIA driver, so nothing was run."
    exit 0
fi
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader || true

# Runs a step, keeps its output, and goes on whatever it comes to.
step() {
    local name=$1
    shift
    printf '\n== %s (after %s s)\n' "$name" "$SECONDS"
    if "$@" >"$out/$name.log" 2>&1; then
        tail -n 3 "$out/$name.log"
    else
        failed=1
        echo "FAILED: $name"
        grep -E 'panicked|FAILED|error' -A 3 "$out/$name.log" | head -n 60
    fi
}

step kernels "$folder/kernels" --test-threads=1
step engine "$folder/engine" --test-threads=1

shapes=(smollm2-135m llama-1b llama-8b)
[ -z "$quick" ] || shapes=(smollm2-135m llama-1b)
for shape in "${shapes[@]}"; do
    step "bench-$shape" "$folder/bench" "$shape"
    cat "$out/bench-$shape.log"
done

step bench-early-launch "$folder/bench" smollm2-135m --early-launch
cat "$out/bench-early-launch.log"

if [ -z "$quick" ]; then
    step bench-llama-8b-q4 "$folder/bench" llama-8b --weights q4
    cat "$out/bench-llama-8b-q4.log"
fi

sanitizer=$(command -v compute-sanitizer || true)
[ -n "$sanitizer" ] || sanitizer=$(ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | head -n 1)
if [ -n "$quick" ]; then
    echo "SKIPPED: compute-sanitizer, for it was to be quick."
elif [ -z "$sanitizer" ]; then
    echo "SKIPPED: compute-sanitizer is not installed."
else
    for tool in memcheck racecheck; do
        step "$tool" timeout 240 "$sanitizer" --tool "$tool" --error-exitcode 1 --print-limit 20 \
            "$folder/kernels" --test-threads=1 "${SANITIZE:-norm}"
    done
fi
printf '\nchecked in %s s: %s\n' "$SECONDS" "$([ $failed = 0 ] && echo "all passed" || echo "FAILED")"
exit $failed
