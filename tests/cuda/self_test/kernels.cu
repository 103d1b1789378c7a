// Kernels of the stand-in's own tests, right ones and wrong ones.
#include "prelude.cuh"

extern "C" __global__ void reads_unset_static_shared(float* out) {
    __shared__ float room[64];
    out[threadIdx.x] = room[threadIdx.x];
    __syncthreads();
    room[threadIdx.x] = 1.0f;
}
SCONCE_KERNEL(reads_unset_static_shared)

extern "C" __global__ void ten_barriers(float* out) {
    for (int i = 0; i < 10; i++) __syncthreads();
    out[threadIdx.x] = 1.0f;
}
SCONCE_KERNEL(ten_barriers)
extern "C" __global__ void ten_shuffles(float* out) {
    float x = threadIdx.x;
    for (int i = 0; i < 10; i++) x += __shfl_xor_sync(FULL_WARP, x, 1 << i % 5);
    out[threadIdx.x] = x;
}
SCONCE_KERNEL(ten_shuffles)
extern "C" __global__ void nothing(float* out) { out[threadIdx.x] = 1.0f; }
SCONCE_KERNEL(nothing)
