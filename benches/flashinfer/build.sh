#!/usr/bin/env bash
# Compiles what Sconce's attention is measured against, attention.cu with FlashInfer's kernels for Hopper, into
# target/flashinfer/attention. The headers come from FlashInfer's wheel (Apache-2.0), of which nothing else
# is used: no PyTorch. Takes nvcc of CUDA 13 (CUDA_HOME, or kernels/cuda/toolkit.sh) and a few minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
cuda=${CUDA_HOME:-$(kernels/cuda/toolkit.sh)}
out=target/flashinfer
package=flashinfer-python==0.6.18
data=$out/include/flashinfer/data

if [ "$(cat "$out/.unpacked" 2>/dev/null)" != "$package" ]; then
    rm -rf "$out"
    mkdir -p "$out"
    python3 -m pip download --quiet --no-deps --disable-pip-version-check --dest "$out" "$package"
    python3 - "$out" <<'PYTHON'
import glob, sys, zipfile
out = sys.argv[1]
wanted = ("include/", "cutlass/include/", "cutlass/tools/util/include/",
          "cccl/libcudacxx/include/", "cccl/cub/cub/", "cccl/thrust/thrust/")
with zipfile.ZipFile(glob.glob(f"{out}/*.whl")[0]) as wheel:
    for name in wheel.namelist():
        if name.startswith(tuple(f"flashinfer/data/{folder}" for folder in wanted)) or "/licenses/" in name:
            wheel.extract(name, f"{out}/include")
PYTHON
    rm "$out"/*.whl
    printf '%s' "$package" >"$out/.unpacked"
fi

# The flags with which FlashInfer compiles itself. Its own CCCL comes before the toolkit's, which is older.
flags=(-std=c++17 -O3 -DNDEBUG -use_fast_math --expt-relaxed-constexpr -static-global-template-stub=false -w
    -gencode=arch=compute_90a,code=sm_90a -Xfatbin=-compress-all
    -DFLASHINFER_ENABLE_F16 -DFLASHINFER_ENABLE_BF16 -DCUTE_SM90_EXTENDED_MMA_SHAPES_ENABLED)
for folder in cccl/libcudacxx/include cccl/cub cccl/thrust include cutlass/include cutlass/tools/util/include; do
    flags+=(-I"$data/$folder")
done
flags+=(-Ibenches/flashinfer)
objects=()
for source in attention fa2 fa3; do
    object=$out/$source.o
    objects+=("$object")
    if [ ! "$object" -nt "benches/flashinfer/$source.cu" ] || [ ! "$object" -nt benches/flashinfer/attention.h ]; then
        "$cuda/bin/nvcc" "${flags[@]}" -c "benches/flashinfer/$source.cu" -o "$object"
    fi
done
"$cuda/bin/nvcc" -cudart static -Xcompiler -static-libstdc++,-static-libgcc "${objects[@]}" -o "$out/attention"
strip "$out/attention"
ls -l "$out/attention"
