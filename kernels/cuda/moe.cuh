// Lists of pairs, a pair being a token and one of its experts: number `token * top_k + j`. A tile is one
// expert and up to `width` of its pairs, in any order: an expert's number, then `width` of pairs'.
#pragma once

#include "prelude.cuh"

// No expert, or no pair.
constexpr uint32_t NONE = 0xffffffffu;

// The pairs of the block's tile, as rows of x of which each serves `pairs_per_x`, and rows of y of `stride` elements.
template <class T> struct PairTile {
    const uint32_t* tile;
    int pairs_per_x;
    T* y;
    int n, stride;

    __device__ __forceinline__ uint32_t expert() const { return tile[0]; }
    __device__ __forceinline__ uint32_t pair(int i) const { return tile[1 + i]; }
    __device__ __forceinline__ bool has(int i) const { return pair(i) != NONE; }
    __device__ __forceinline__ bool has(int i, int feature) const { return has(i) && feature < n; }
    // The row of x; of no pair, one that there is.
    __device__ __forceinline__ int source(int i) const { return has(i) ? pair(i) / pairs_per_x : 0; }
    __device__ __forceinline__ void put(int i, int feature, float sum) const {
        y[static_cast<int64_t>(pair(i)) * stride + feature] = from_float<T>(sum);
    }
};
