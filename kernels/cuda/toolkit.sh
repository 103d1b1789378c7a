#!/usr/bin/env bash
# Fetches nvcc and what it needs from Python's package index (0.4 GB), for machines without an
# installation of CUDA, and prints the CUDA_HOME to build with:
#     CUDA_HOME=$(kernels/cuda/toolkit.sh) cargo build --release --features cuda
# It takes Python 3 with pip and a C++ compiler (gcc 15 at most). NVIDIA's licence of the toolkit applies.
set -euo pipefail
folder=${1:-$(cd "$(dirname "$0")/../.." && pwd)/target/cuda-toolkit}
# nvvm and crt are named because nvcc asks for any version of them, and only its own fits.
packages=("cuda-toolkit[nvcc,nvvm,crt,cudart,cccl]==13.0.2"
    "nvidia-cuda-cuobjdump==13.2.86" "nvidia-cuda-nvdisasm==13.2.86")
home=$folder/nvidia/cu13
stamp=$folder/.installed
if [ "$(cat "$stamp" 2>/dev/null)" != "${packages[*]}" ]; then
    rm -rf "$folder"
    # All in one go: a second one would replace the folder that the packages share.
    if command -v uv >/dev/null; then
        uv pip install --quiet --target "$folder" "${packages[@]}" >&2
    else
        python3 -m pip install --quiet --no-compile --disable-pip-version-check \
            --root-user-action ignore --target "$folder" "${packages[@]}" >&2
    fi
    # Where nvcc looks for libraries, and the packages have none.
    ln -sfn lib "$home/lib64"
    printf '%s' "${packages[*]}" >"$stamp"
fi
echo "$home"
