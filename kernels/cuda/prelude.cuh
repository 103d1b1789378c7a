// What every kernel file begins with: the compiler's words, under names that a host compiler can be
// given too. Compiled by nvcc this is CUDA; compiled with SCONCE_HOST each thread of a block is a fiber
// of the host's (`tests/cuda`), so that the same lines run, and are tested, without a GPU.
//
// A kernel is `extern "C" __global__ void name(...)`, followed by `SCONCE_KERNEL(name)`. Its parameters
// are pointers and numbers of 4 or 8 bytes.
#pragma once

#include <stdint.h>

#ifdef SCONCE_HOST
#include "host.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#define SCONCE_KERNEL(name)
// Declares `type* name`, the block's dynamic shared memory.
#define SCONCE_DYNAMIC_SHARED(type, name)                                                          \
    extern __shared__ __align__(128) unsigned char name##_bytes[];                                 \
    type* name = reinterpret_cast<type*>(name##_bytes)
#endif

#include "ptx.cuh"

using bf16 = __nv_bfloat16;
using f16 = __half;

constexpr unsigned FULL_WARP = 0xffffffffu;
constexpr int WARP = 32;

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(f16 x) { return __half2float(x); }

template <class T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) { return __float2bfloat16(x); }
template <> __device__ __forceinline__ f16 from_float<f16>(float x) { return __float2half(x); }

// `N` elements that are loaded and stored at once; the address must be a multiple of their size.
template <class T, int N> struct alignas(sizeof(T) * N) Pack {
    T at[N];
};

// As many elements as 16 bytes hold.
template <class T> constexpr int PACK = 16 / sizeof(T);

template <class T, int N = PACK<T>> __device__ __forceinline__ Pack<T, N> load_pack(const T* from) {
    return *reinterpret_cast<const Pack<T, N>*>(from);
}

template <class T, int N> __device__ __forceinline__ void store_pack(T* to, const Pack<T, N>& pack) {
    *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

__device__ __forceinline__ float warp_sum(float x) {
    for (int offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(FULL_WARP, x, offset);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, offset));
    }
    return x;
}

// Sums over the block, whose threads are a multiple of 32, at most 1024; all get the sum. `room` has 32
// floats of shared memory, and may be used again right after.
__device__ __forceinline__ float block_sum(float x, float* room) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    x = warp_sum(x);
    if (lane == 0) room[warp] = x;
    __syncthreads();
    x = warp_sum(lane < warps ? room[lane] : 0.0f);
    __syncthreads();
    return x;
}

__device__ __forceinline__ float block_max(float x, float* room) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    x = warp_max(x);
    if (lane == 0) room[warp] = x;
    __syncthreads();
    x = warp_max(lane < warps ? room[lane] : -INFINITY);
    __syncthreads();
    return x;
}

// Writes one kernel per element type: DEFINE(float, f32) and so on.
#define SCONCE_FOR_FLOATS(DEFINE)                                                                  \
    DEFINE(float, f32)                                                                             \
    DEFINE(f16, f16)                                                                               \
    DEFINE(bf16, bf16)
