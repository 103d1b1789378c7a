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

// Goes through a warp's parts of k, of `STEP` elements each: two are on their way while one before is multiplied.
template <int STEP, class Stage, class Source, class Multiply>
__device__ __forceinline__ void stream(const Source& source, Multiply multiply) {
    const int warp = threadIdx.x / WARP;
    Stage even, odd;
    // Nobody writes weights, so they are on their way while the kernels before still run.
    source.load_weights(even, warp);
    source.load_weights(odd, warp + WARPS);
    wait_for_dependencies();
    launch_dependents();
    source.load_x(even, warp);
    source.load_x(odd, warp + WARPS);
    for (int part = warp; part * STEP < source.k; part += 2 * WARPS) {
        multiply(even);
        source.load_weights(even, part + 2 * WARPS);
        source.load_x(even, part + 2 * WARPS);
        multiply(odd);
        source.load_weights(odd, part + 3 * WARPS);
        source.load_x(odd, part + 3 * WARPS);
    }
}

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
