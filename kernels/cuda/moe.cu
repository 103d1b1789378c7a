// Mixtures of experts (Shazeer et al., 2017): which experts a token goes to, the list of what each expert
// does, products with its matrices of floats, and the sum of what they say. Nothing of it needs the host: the
// grid has room for the most tiles that there can be, and blocks past the last leave. What a pair yields lies
// in its place, so that the order in which experts take pairs changes nothing.
#include "moe.cuh"

constexpr int MAX_EXPERTS = 512;
constexpr int PER_LANE = MAX_EXPERTS / WARP;
// Pairs of a tile, where matrices are of floats.
constexpr int PAIRS = 16;

// The greater of two experts' probabilities, of equals the first one's.
struct Best {
    float value;
    int expert;

    __device__ __forceinline__ void offer(float other, int index) {
        if (other > value || (other == value && index < expert)) {
            value = other;
            expert = index;
        }
    }
};

// logits: [rows, experts]. ids, weights: [rows, top_k]. A warp per row. Not-a-numbers count as least.
template <class T>
__device__ __forceinline__ void route(const T* logits, uint32_t* ids, float* weights, int rows, int experts,
                                      int top_k, int renormalize) {
    wait_for_dependencies();
    launch_dependents();
    const int lane = threadIdx.x % WARP, row = (blockIdx.x * blockDim.x + threadIdx.x) / WARP;
    if (row >= rows) return;
    float values[PER_LANE];
    float greatest = -INFINITY;
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) {
        const int expert = i * WARP + lane;
        const float x = expert < experts ? to_float(logits[static_cast<int64_t>(row) * experts + expert])
                                         : -INFINITY;
        values[i] = x == x ? x : -INFINITY;
        greatest = fmaxf(greatest, values[i]);
    }
    greatest = warp_max(greatest);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) {
        // Without a number among them, all are as good.
        const float x = greatest == -INFINITY ? 1.0f : expf(values[i] - greatest);
        values[i] = i * WARP + lane < experts ? x : -1.0f;
        sum += i * WARP + lane < experts ? x : 0.0f;
    }
    sum = warp_sum(sum);
    float own = 0.0f, chosen = 0.0f;
    int own_expert = 0;
    for (int j = 0; j < top_k; j++) {
        Best best = {-1.0f, MAX_EXPERTS};
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) best.offer(values[i], i * WARP + lane);
        for (int offset = WARP / 2; offset > 0; offset /= 2) {
            const float value = __shfl_xor_sync(FULL_WARP, best.value, offset);
            best.offer(value, __shfl_xor_sync(FULL_WARP, best.expert, offset));
        }
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) {
            if (i * WARP + lane == best.expert) values[i] = -2.0f;
        }
        chosen += best.value;
        if (lane == j) {
            own = best.value;
            own_expert = best.expert;
        }
    }
    if (lane >= top_k) return;
    ids[row * top_k + lane] = own_expert;
    weights[row * top_k + lane] = own / (renormalize ? chosen : sum);
}

// Makes of the numbers of experts' tiles where each expert's begin. A warp.
__device__ __forceinline__ void begin_tiles(const int* counts, int* firsts, int experts, int width) {
    const int lane = threadIdx.x % WARP, each = (experts + WARP - 1) / WARP;
    const int begin = min(lane * each, experts), end = min(begin + each, experts);
    int sum = 0;
    for (int i = begin; i < end; i++) sum += (counts[i] + width - 1) / width;
    int first = sum;
#pragma unroll
    for (int offset = 1; offset < WARP; offset *= 2) {
        const int before = __shfl_up_sync(FULL_WARP, first, offset);
        if (lane >= offset) first += before;
    }
    first -= sum;
    for (int i = begin; i < end; i++) {
        firsts[i] = first;
        first += (counts[i] + width - 1) / width;
    }
}

// ids: [num]. tiles: [max_tiles, 1 + width], those of each expert one after the other; NONE where there are
// fewer. One block.
extern "C" __global__ void __launch_bounds__(1024)
    moe_tiles(const uint32_t* ids, uint32_t* tiles, int num, int experts, int width, int max_tiles) {
    __shared__ int counts[MAX_EXPERTS], firsts[MAX_EXPERTS];
    const int row = 1 + width;
    wait_for_dependencies();
    launch_dependents();
    for (int i = threadIdx.x; i < max_tiles * row; i += blockDim.x) tiles[i] = NONE;
    for (int i = threadIdx.x; i < experts; i += blockDim.x) counts[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < num; i += blockDim.x) {
        const uint32_t expert = ids[i];
        if (expert < static_cast<uint32_t>(experts)) atomicAdd(&counts[expert], 1);
    }
    __syncthreads();
    if (threadIdx.x < WARP) begin_tiles(counts, firsts, experts, width);
    __syncthreads();
    for (int i = threadIdx.x; i < experts; i += blockDim.x) {
        const int end = firsts[i] + (counts[i] + width - 1) / width;
        for (int tile = firsts[i]; tile < end; tile++) tiles[static_cast<int64_t>(tile) * row] = i;
        counts[i] = 0;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < num; i += blockDim.x) {
        const uint32_t expert = ids[i];
        if (expert >= static_cast<uint32_t>(experts)) continue;
        const int place = atomicAdd(&counts[expert], 1);
        tiles[static_cast<int64_t>(firsts[expert] + place / width) * row + 1 + place % width] = i;
    }
}
SCONCE_KERNEL(moe_tiles)

constexpr int FEATURES = 16;
constexpr int WARPS = 8;
constexpr int CHUNK = 32;

// What a lane has of 32 columns: of rows g and g + 8 of w, and of pairs g and g + 8, 8 elements at 8 t.
struct Stage {
    uint4 w[2];
    uint4 x[2];
};

__device__ __forceinline__ uint4 load_or_zero(const void* from, bool valid) {
    return valid ? *static_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
}

// The grid is features and tiles. x: [num / pairs_per_x, k], a row for so many pairs. w: [experts, n, k].
// y: [num, n]. As in `gemv.cu`, warps take turns along k; w is the left operand, and 16 pairs are two right
// ones.
template <class T>
__device__ __forceinline__ void grouped(const T* x, const T* w, T* y, const uint32_t* tiles, int pairs_per_x,
                                        int n, int k) {
    constexpr int AHEAD = 4;
    __shared__ float parts[WARPS][FEATURES][PAIRS];
    wait_for_dependencies();
    launch_dependents();
    const uint32_t* tile = tiles + static_cast<int64_t>(blockIdx.y) * (1 + PAIRS);
    const uint32_t expert = tile[0];
    if (expert == NONE) return;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int first_col = warp * CHUNK + lane % 4 * 8;
    const T *from[2], *tokens[2];
    bool is_there[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int feature = min(static_cast<int>(blockIdx.x) * FEATURES + lane / 4 + 8 * i, n - 1);
        from[i] = w + (static_cast<int64_t>(expert) * n + feature) * k + first_col;
        const uint32_t pair = tile[1 + lane / 4 + 8 * i];
        is_there[i] = pair != NONE;
        tokens[i] = x + static_cast<int64_t>(is_there[i] ? pair / pairs_per_x : 0) * k + first_col;
    }
    Stage stages[AHEAD] = {};
    const auto load = [&](Stage& to, int begin) {
        if (begin + first_col >= k) {
            to = {};
            return;
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            to.w[i] = load_once(from[i] + begin);
            to.x[i] = load_or_zero(tokens[i] + begin, is_there[i]);
        }
    };
    constexpr int STEP = WARPS * CHUNK;
#pragma unroll
    for (int i = 0; i < AHEAD; i++) load(stages[i], i * STEP);
    float sums[2][4] = {};
    for (int begin = 0; begin < k; begin += AHEAD * STEP) {
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const Stage& at = stages[i];
#pragma unroll
            for (int j = 0; j < 2; j++) {
                mma_16816(sums[j], {at.w[0].x, at.w[1].x, at.w[0].y, at.w[1].y}, {at.x[j].x, at.x[j].y}, T{});
                mma_16816(sums[j], {at.w[0].z, at.w[1].z, at.w[0].w, at.w[1].w}, {at.x[j].z, at.x[j].w}, T{});
            }
            load(stages[i], begin + (AHEAD + i) * STEP);
        }
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const int part = i % 4;
        parts[warp][lane / 4 + part / 2 * 8][i / 4 * 8 + lane % 4 * 2 + part % 2] = sums[i / 4][part];
    }
    __syncthreads();
    const int at = threadIdx.x % FEATURES, feature = blockIdx.x * FEATURES + at;
    const uint32_t pair = tile[1 + threadIdx.x / FEATURES];
    if (pair == NONE || feature >= n) return;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < WARPS; i++) sum += parts[i][at][threadIdx.x / FEATURES];
    y[static_cast<int64_t>(pair) * n + feature] = from_float<T>(sum);
}

// As `grouped`, of f32, to compare with: a thread has a feature and a pair, and sums along k in order.
extern "C" __global__ void __launch_bounds__(FEATURES* PAIRS)
    moe_grouped_f32(const float* x, const float* w, float* y, const uint32_t* tiles, int pairs_per_x, int n,
                    int k) {
    wait_for_dependencies();
    launch_dependents();
    const uint32_t* tile = tiles + static_cast<int64_t>(blockIdx.y) * (1 + PAIRS);
    const uint32_t expert = tile[0];
    if (expert == NONE) return;
    const int feature = blockIdx.x * FEATURES + threadIdx.x % FEATURES;
    const uint32_t pair = tile[1 + threadIdx.x / FEATURES];
    if (pair == NONE || feature >= n) return;
    const float* from = x + static_cast<int64_t>(pair / pairs_per_x) * k;
    const float* row = w + (static_cast<int64_t>(expert) * n + feature) * k;
    float sum = 0.0f;
    for (int i = 0; i < k; i++) sum = fmaf(from[i], row[i], sum);
    y[static_cast<int64_t>(pair) * n + feature] = sum;
}
SCONCE_KERNEL(moe_grouped_f32)

// out: [rows, cols] (+)= the pairs' results, [rows, top_k, cols], times their weights, in order.
template <class T>
__device__ __forceinline__ void combine(const T* pairs, const float* weights, T* out, int cols, int top_k,
                                        int accumulate) {
    constexpr int N = PACK<T>;
    wait_for_dependencies();
    launch_dependents();
    const int64_t row = blockIdx.x;
    for (int col = threadIdx.x * N; col < cols; col += blockDim.x * N) {
        float sums[N] = {};
        for (int j = 0; j < top_k; j++) {
            const auto some = load_pack<T>(pairs + (row * top_k + j) * cols + col);
            const float weight = weights[row * top_k + j];
#pragma unroll
            for (int i = 0; i < N; i++) sums[i] = fmaf(weight, to_float(some.at[i]), sums[i]);
        }
        auto to = load_pack<T>(out + row * cols + col);
#pragma unroll
        for (int i = 0; i < N; i++) to.at[i] = from_float<T>(accumulate ? to_float(to.at[i]) + sums[i] : sums[i]);
        store_pack(out + row * cols + col, to);
    }
}

#define DEFINE(T, SUFFIX)                                                                          \
    extern "C" __global__ void __launch_bounds__(256)                                              \
        moe_route_##SUFFIX(const T* logits, uint32_t* ids, float* weights, int rows, int experts,  \
                           int top_k, int renormalize) {                                           \
        route<T>(logits, ids, weights, rows, experts, top_k, renormalize);                         \
    }                                                                                              \
    SCONCE_KERNEL(moe_route_##SUFFIX)                                                              \
    extern "C" __global__ void __launch_bounds__(512)                                              \
        moe_combine_##SUFFIX(const T* pairs, const float* weights, T* out, int cols, int top_k,    \
                             int accumulate) {                                                     \
        combine<T>(pairs, weights, out, cols, top_k, accumulate);                                  \
    }                                                                                              \
    SCONCE_KERNEL(moe_combine_##SUFFIX)
SCONCE_FOR_FLOATS(DEFINE)

#define DEFINE_GROUPED(T, SUFFIX)                                                                  \
    extern "C" __global__ void __launch_bounds__(WARPS* WARP, 2)                                   \
        moe_grouped_##SUFFIX(const T* x, const T* w, T* y, const uint32_t* tiles, int pairs_per_x, \
                             int n, int k) {                                                       \
        grouped<T>(x, w, y, tiles, pairs_per_x, n, k);                                             \
    }                                                                                              \
    SCONCE_KERNEL(moe_grouped_##SUFFIX)
DEFINE_GROUPED(f16, f16)
DEFINE_GROUPED(bf16, bf16)
