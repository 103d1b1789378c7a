#!/usr/bin/env bash
# Builds llama.cpp's server and tools under target/peer, from the source that the PyPI package
# llama-cpp-python carries, optimised for this machine. Prints the directory of the binaries.
set -euo pipefail
cd "$(dirname "$0")/.."
version=0.3.36
peer=$PWD/target/peer
bin=$peer/build/bin
targets=(llama-server llama-quantize llama-bench llama-batched-bench)
is_built() {
    local target
    for target in "${targets[@]}"; do [ -x "$bin/$target" ] || return 1; done
}
if ! is_built; then
    mkdir -p "$peer"
    [ -x "$peer/venv/bin/cmake" ] || {
        python3 -m venv "$peer/venv"
        "$peer/venv/bin/python" -m pip install --quiet cmake ninja
    } >&2
    source=$peer/llama_cpp_python-$version/vendor/llama.cpp
    [ -d "$source" ] || {
        "$peer/venv/bin/python" -m pip download --quiet --no-deps --no-binary llama-cpp-python \
            --dest "$peer" "llama-cpp-python==$version"
        tar -xzf "$peer/llama_cpp_python-$version.tar.gz" -C "$peer"
    } >&2
    PATH=$peer/venv/bin:$PATH cmake -S "$source" -B "$peer/build" -G Ninja \
        -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF \
        -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF >&2
    PATH=$peer/venv/bin:$PATH cmake --build "$peer/build" --target "${targets[@]}" >&2
fi
echo "$bin"
