#!/usr/bin/env bash
# Everything that needs a GPU, with what tests/gpu/pack.sh built: kernels against 64-bit references, the
# engine against the processor's, the benchmark, also through HTTP and beside transformers, and the kernels
# again under compute-sanitizer. Builds nothing. Without a GPU it says so and has run nothing.
#     tests/gpu/check.sh [FOLDER] [--quick]
# FOLDER, target/gpu unless said otherwise, holds the binaries; results are written to $OUT, or beside them.
# --quick leaves out the largest shape, transformers and the sanitizer.
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
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

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
        grep -E 'panicked|FAILED|error' -A 12 "$out/$name.log" | head -n 200
    fi
}

# Each test of a binary in a process of its own, for a kernel that fails takes all others of its process with
# it, and one that hangs would never let go.
each() {
    local binary=$1 failures
    failures=$("$binary" --list --format terse | sed -n 's/: test$//p' | xargs -P "${JOBS:-4}" -I{} bash -c '
        if ! timeout 120 "$1" --exact "$2" --nocapture >"$3/test.$2.log" 2>&1; then
            echo "$2"
        fi' each "$binary" {} "$scratch")
    grep -h '^skipped' "$scratch"/test.*.log
    local failed_test
    for failed_test in $failures; do
        echo "FAILED: $failed_test"
        grep -vE '^(running|test result|$)' "$scratch/test.$failed_test.log" | head -n 12 | cut -c -400
    done
    echo "$(ls "$scratch"/test.*.log | wc -l) tests, $(wc -w <<<"$failures") failed"
    rm -f "$scratch"/test.*.log
    [ -z "$failures" ]
}

step kernels each "$folder/kernels"
step engine each "$folder/engine"

# Runs the benchmark and shows its table.
bench() {
    local name=$1
    shift
    step "bench-$name" "$folder/bench" "$@"
    cat "$out/bench-$name.log"
}

if [ -x "$folder/bench" ]; then
    bench smollm2-135m smollm2-135m
    bench llama-1b llama-1b
    bench no-early-launch smollm2-135m --no-early-launch
    if [ -z "$quick" ]; then
        bench llama-8b llama-8b
        bench llama-8b-tuned llama-8b --tuning-cache "$out/algorithms"
        for weights in q4 awq fp8 fp8-blocks; do
            bench "llama-8b-$weights" llama-8b --weights "$weights"
        done
        bench qwen3-30b-a3b-q4 qwen3-30b-a3b --weights q4
    fi
else
    echo "SKIPPED: the benchmark, for $folder has none."
fi

# Attention beside FlashInfer's.
if [ -x "$folder/attention" ] && [ -x "$folder/flashinfer" ]; then
    bench_attention() { step "$@"; cat "$out/$1.log"; }
    bench_attention flashinfer "$folder/flashinfer"
    bench_attention attention "$folder/attention"
    bench_attention attention-early-launch "$folder/attention" --early-launch
    bench_attention attention-compared python3 benches/flashinfer/compare.py \
        "$out"/{flashinfer,attention,attention-early-launch}.log
else
    echo "SKIPPED: attention beside FlashInfer's, for $folder hasn't both."
fi

# Through the router and HTTP.
http() {
    step "http-$1" tests/gpu/http.sh "$sconce" "$1" "$2" "$out"
    cat "$out/http-$1.log"
}
sconce=$folder/sconce
if [ -f "$sconce.xz" ]; then
    sconce=$scratch/sconce
    xz -dc "$folder/sconce.xz" >"$sconce" && chmod +x "$sconce"
fi
if [ -x "$sconce" ]; then
    http smollm2-135m 64
    [ -n "$quick" ] || http llama-8b 256
else
    echo "SKIPPED: HTTP, for $folder has no sconce.xz."
fi

if [ -n "$quick" ]; then
    echo "SKIPPED: transformers, for it was to be quick."
elif python3 -c 'import torch, transformers' 2>/dev/null; then
    step transformers python3 benches/gpu_transformers.py llama-8b
    cat "$out/transformers.log"
else
    echo "SKIPPED: transformers is not installed, with which there is a comparison."
fi

# The machine's own, or what pack.sh laid beside the tests.
sanitizer=$(command -v compute-sanitizer || true)
[ -n "$sanitizer" ] || sanitizer=$(ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | head -n 1)
if [ -z "$sanitizer" ] && [ -z "$quick" ] && [ -f "$folder/compute-sanitizer.tar.xz" ]; then
    tar -xJf "$folder/compute-sanitizer.tar.xz" -C "$scratch"
    sanitizer=$scratch/compute-sanitizer/compute-sanitizer
fi
if [ -n "$quick" ]; then
    echo "SKIPPED: compute-sanitizer, for it was to be quick."
elif [ -z "$sanitizer" ]; then
    echo "SKIPPED: compute-sanitizer is not installed."
else
    # Tests of one family after the other: under the sanitizer kernels take tens of times as long. Those that
    # make kernels fail on purpose are not among them.
    for tool in memcheck racecheck; do
        for family in ${SANITIZE:-norm rope blocks sampling attention}; do
            step "$tool-$family" timeout 120 "$sanitizer" --tool "$tool" --error-exitcode 1 \
                --print-limit 20 "$folder/kernels" --test-threads=1 "$family"
        done
    done
fi
printf '\nchecked in %s s: %s\n' "$SECONDS" "$([ $failed = 0 ] && echo "all passed" || echo "FAILED")"
exit $failed
