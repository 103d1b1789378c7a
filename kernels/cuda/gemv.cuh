// What kernels for at most 8 rows of x have in common. A block takes 16 rows of the matrix, the features,
// and its 8 warps take turns along k. Of m16n8k16, the matrix is the left operand and x the right one,
// whose 8 columns are the rows of x, absent ones zero: each goes the same way however many there are.
#pragma once

#include "prelude.cuh"

constexpr int ROWS = 8;
constexpr int FEATURES = 16;
constexpr int WARPS = 8;
// Elements along k that a warp takes at once.
constexpr int CHUNK = 64;

// Adds the warps' sums, in order, and writes them into rows of `stride` elements.
template <class Out>
__device__ __forceinline__ void finish(const float (&sums)[4], Out* y, int rows, int n, int stride,
                                       int accumulate) {
    __shared__ float parts[WARPS][FEATURES][ROWS];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    store_pack(&parts[warp][lane / 4][lane % 4 * 2], Pack<float, 2>{{sums[0], sums[1]}});
    store_pack(&parts[warp][lane / 4 + 8][lane % 4 * 2], Pack<float, 2>{{sums[2], sums[3]}});
    __syncthreads();
    const int feature = blockIdx.x * FEATURES + threadIdx.x % FEATURES, row = threadIdx.x / FEATURES;
    if (row >= rows || feature >= n) return;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < WARPS; i++) sum += parts[i][threadIdx.x % FEATURES][row];
    Out* to = y + static_cast<int64_t>(row) * stride + feature;
    *to = from_float<Out>(accumulate ? to_float(*to) + sum : sum);
}
