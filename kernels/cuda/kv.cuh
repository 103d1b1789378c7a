// Elements of the cache of keys and values, and the paged layout: `[num_blocks, kv_heads, block_size,
// head_dim]`, of keys and of values each.
#pragma once

#include "prelude.cuh"

using fp8 = __nv_fp8_e4m3;

__device__ __forceinline__ float to_float(fp8 x) { return static_cast<float>(x); }
__device__ __forceinline__ float to_float(int8_t x) { return static_cast<float>(x); }

// Saturates.
template <> __device__ __forceinline__ fp8 from_float<fp8>(float x) { return fp8(x); }
template <> __device__ __forceinline__ int8_t from_float<int8_t>(float x) {
    return static_cast<int8_t>(fminf(fmaxf(rintf(x), -127.0f), 127.0f));
}

// Whether elements are multiples of a scale: one for each token and head, `[num_blocks, kv_heads,
// block_size]`.
template <class C> constexpr bool IS_SCALED = false;
template <> constexpr bool IS_SCALED<int8_t> = true;

// Writes one kernel per pair of a model's and a cache's element types: DEFINE(bf16, bf16, fp8, fp8).
#define SCONCE_FOR_CACHES(DEFINE)                                                                  \
    DEFINE(float, f32, float, f32)                                                                 \
    DEFINE(float, f32, fp8, fp8)                                                                   \
    DEFINE(float, f32, int8_t, int8)                                                               \
    DEFINE(f16, f16, f16, f16)                                                                     \
    DEFINE(f16, f16, fp8, fp8)                                                                     \
    DEFINE(f16, f16, int8_t, int8)                                                                 \
    DEFINE(bf16, bf16, bf16, bf16)                                                                 \
    DEFINE(bf16, bf16, fp8, fp8)                                                                   \
    DEFINE(bf16, bf16, int8_t, int8)
