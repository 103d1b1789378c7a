#!/usr/bin/env bash
# Builds llama.cpp's llama-server under target/peer, from the source that the PyPI package
# llama-cpp-python carries, optimised for this machine. Prints the binary's path.
set -euo pipefail
cd "$(dirname "$0")/.."
version=0.3.36
peer=$PWD/target/peer
server=$peer/build/bin/llama-server
if [ ! -x "$server" ]; then
    mkdir -p "$peer"
    [ -x "$peer/venv/bin/cmake" ] || {
        python3 -m venv "$peer/venv"
        "$peer/venv/bin/pip" install --quiet cmake ninja
    } >&2
    source=$peer/llama_cpp_python-$version/vendor/llama.cpp
    [ -d "$source" ] || {
        "$peer/venv/bin/pip" download --quiet --no-deps --no-binary llama-cpp-python \
            --dest "$peer" "llama-cpp-python==$version"
        tar -xzf "$peer/llama_cpp_python-$version.tar.gz" -C "$peer"
    } >&2
    PATH=$peer/venv/bin:$PATH cmake -S "$source" -B "$peer/build" -G Ninja \
        -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF \
        -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF >&2
    PATH=$peer/venv/bin:$PATH cmake --build "$peer/build" \
        --target llama-server llama-quantize >&2
fi
echo "$server"
