// Kernels of the stand-in's own tests, right ones and wrong ones.
#include "prelude.cuh"

extern "C" __global__ void reads_unset_static_shared(float* out) {
    __shared__ float room[64];
    out[threadIdx.x] = room[threadIdx.x];
    __syncthreads();
    room[threadIdx.x] = 1.0f;
}
SCONCE_KERNEL(reads_unset_static_shared)
