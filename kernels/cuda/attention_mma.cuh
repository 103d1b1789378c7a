// Attention by tensor cores, as FlashAttention-2 does it (Dao, 2023): a warp has 16 queries, and for some
// keys at a time multiplies, weighs and adds. Scores leave one product in the registers where the next one
// takes its weights.
//
// A lane has the rows `lane / 4` and that plus 8 of a product, and of 8 columns each those at
// `lane % 4 * 2`. The order of dimensions within a product is free, as long as both sides agree. So of
// caches of 8 bits, whose two matrices' elements share a register, neighbors simply count as elements of
// different products, and nothing is shuffled.
#pragma once

#include "attention.cuh"

constexpr int QUERIES = 16;

// What products are of: 8 bits are made f16, which holds them exactly.
template <class T, class C> struct Operand { using type = T; };
template <class T> struct Operand<T, fp8> { using type = f16; };
template <class T> struct Operand<T, int8_t> { using type = f16; };

// Rows of keys or values in shared memory. Pieces of 16 bytes are permuted within each row, so that those
// of eight rows lie in all banks.
template <class C, int D> struct Rows {
    static constexpr int PIECES = D * static_cast<int>(sizeof(C)) / 16;
    static constexpr int BYTES = D * static_cast<int>(sizeof(C));

    __device__ __forceinline__ static int at(int row, int piece) {
        const int swap = PIECES >= 8 ? row % 8 : row / 2 % 4;
        return row * BYTES + (piece ^ swap) * 16;
    }
};

__device__ __forceinline__ uint32_t pack_2(float a, float b, bf16) {
    const auto pair = __floats2bfloat162_rn(a, b);
    return *reinterpret_cast<const uint32_t*>(&pair);
}

__device__ __forceinline__ uint32_t pack_2(float a, float b, f16) {
    const auto pair = __floats2half2_rn(a, b);
    return *reinterpret_cast<const uint32_t*>(&pair);
}

__device__ __forceinline__ __half2 as_half2(uint32_t bits) { return *reinterpret_cast<const __half2*>(&bits); }
__device__ __forceinline__ uint32_t as_bits(__half2 x) { return *reinterpret_cast<const uint32_t*>(&x); }

// The bytes 0 and 2 as f16. The exponent of an 8-bit float is moved to its place, where it counts from
// another zero; an integer becomes the low bits of 1024 and more.
__device__ __forceinline__ uint32_t widen(uint32_t bytes, fp8) {
    const uint32_t moved = (bytes & 0x00800080u) << 8 | (bytes & 0x007f007fu) << 7;
    return as_bits(__hmul2(as_half2(moved), __float2half2_rn(256.0f)));
}

__device__ __forceinline__ uint32_t widen(uint32_t bytes, int8_t) {
    const uint32_t moved = ((bytes & 0x00ff00ffu) ^ 0x00800080u) | 0x64006400u;
    return as_bits(__hsub2(as_half2(moved), __float2half2_rn(1152.0f)));
}

// Queries of a warp, as the left side of products.
template <class T, class C, int D> struct QueryFragments {
    using M = typename Operand<T, C>::type;
    uint32_t at[D / 16][4];

    // Loads the queries `first + lane / 4` and that plus 8, as far as they are less than `end`.
    __device__ __forceinline__ void load(const Attention<T, C>& a, const Work& work, int kv_head, int first,
                                         int end) {
        const int lane = threadIdx.x % WARP;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int query = first + lane / 4 + half * 8;
            const bool exists = query < end;
            const T* from = query_at(a, work, kv_head, exists ? query : work.first_query);
#pragma unroll
            for (int k = 0; k < D / 16; k++) {
                at[k][half] = at[k][half + 2] = 0;
                if (exists) load_step(from, k, a.head_dim, at[k][half], at[k][half + 2]);
            }
        }
    }

  private:
    __device__ __forceinline__ static void load_step(const T* from, int k, int head_dim, uint32_t& low,
                                                     uint32_t& high) {
        const int j = threadIdx.x % 4;
        if constexpr (sizeof(C) == 2) {
            const int d = k * 16 + j * 2;
            if (d < head_dim) low = *reinterpret_cast<const uint32_t*>(from + d);
            if (d + 8 < head_dim) high = *reinterpret_cast<const uint32_t*>(from + d + 8);
        } else {
            const int d = k * 16 + j * 4;
            if (d >= head_dim) return;
            const auto x = load_pack<T, 4>(from + d);
            low = pack_2(to_float(x.at[0]), to_float(x.at[2]), M());
            high = pack_2(to_float(x.at[1]), to_float(x.at[3]), M());
        }
    }
};

// Of 16 keys and the 32 dimensions from `32 step` on: the right side of two products for each 8 keys.
template <class C, int D>
__device__ __forceinline__ void load_keys(const unsigned char* rows, int step, uint32_t (&to)[2][2][2]) {
    const int lane = threadIdx.x % WARP;
    if constexpr (sizeof(C) == 2) {
#pragma unroll
        for (int k = 0; k < 2; k++) {
            uint32_t x[4];
            ldmatrix_x4(x, rows + Rows<C, D>::at(lane / 16 * 8 + lane % 8, step * 4 + k * 2 + lane / 8 % 2));
#pragma unroll
            for (int n = 0; n < 2; n++) to[k][n][0] = x[n * 2], to[k][n][1] = x[n * 2 + 1];
        }
    } else {
        uint32_t x[4];
        ldmatrix_x4(x, rows + Rows<C, D>::at(lane / 8 % 2 * 8 + lane % 8, step * 2 + lane / 16));
#pragma unroll
        for (int i = 0; i < 4; i++) {
            to[i / 2][i % 2][0] = widen(x[i], C());
            to[i / 2][i % 2][1] = widen(x[i] >> 8, C());
        }
    }
}

// Of 16 values and the 32 dimensions from `32 step` on: the right side of four products. `scales` are of
// the values `lane % 4 * 2` and the next, and of those 8 after them.
template <class C, int D>
__device__ __forceinline__ void load_values(const unsigned char* rows, int step, const __half2 (&scales)[2],
                                            uint32_t (&to)[4][2]) {
    const int lane = threadIdx.x % WARP;
    if constexpr (sizeof(C) == 2) {
#pragma unroll
        for (int n = 0; n < 2; n++) {
            uint32_t x[4];
            ldmatrix_x4_trans(x, rows + Rows<C, D>::at(lane % 16, step * 4 + n * 2 + lane / 16));
            to[n * 2][0] = x[0], to[n * 2][1] = x[1], to[n * 2 + 1][0] = x[2], to[n * 2 + 1][1] = x[3];
        }
    } else {
        uint32_t x[4];
        ldmatrix_x4_trans(x, rows + Rows<C, D>::at(lane % 16, step * 2 + lane / 16));
#pragma unroll
        for (int i = 0; i < 4; i++) {
            to[i / 2 * 2][i % 2] = widen(x[i], C());
            to[i / 2 * 2 + 1][i % 2] = widen(x[i] >> 8, C());
        }
        if constexpr (IS_SCALED<C>) {
#pragma unroll
            for (int n = 0; n < 4; n++) {
#pragma unroll
                for (int i = 0; i < 2; i++) to[n][i] = as_bits(__hmul2(as_half2(to[n][i]), scales[i]));
            }
        }
    }
}

// The dimension of column `lane % 4 * 2 + i` of product `n`.
template <class C> __device__ __forceinline__ int dimension_of(int n, int i) {
    const int j = threadIdx.x % 4;
    return sizeof(C) == 2 ? n * 8 + j * 2 + i : n / 2 * 16 + j * 4 + i * 2 + n % 2;
}

// What a warp has of its queries so far: of a lane's two rows the largest score and its own columns' sum of
// weights, and the weighted values.
template <int D> struct Running {
    float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};
    float mixed[D / 8][4] = {};
};

// Scores of 16 queries and 16 keys.
template <class T, class C, int D>
__device__ __forceinline__ void multiply_keys(const QueryFragments<T, C, D>& queries, const unsigned char* keys,
                                              float (&scores)[2][4]) {
#pragma unroll
    for (int n = 0; n < 2; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) scores[n][i] = 0.0f;
    }
#pragma unroll
    for (int step = 0; step < D / 32; step++) {
        uint32_t b[2][2][2];
        load_keys<C, D>(keys, step, b);
#pragma unroll
        for (int k = 0; k < 2; k++) {
#pragma unroll
            for (int n = 0; n < 2; n++) {
                mma_16816(scores[n], queries.at[step * 2 + k], b[k][n], typename Operand<T, C>::type());
            }
        }
    }
}

// Makes weights of the scores of `16 UNITS` keys, and adds their sums.
template <int UNITS, int D>
__device__ __forceinline__ void weigh(float factor, float (&scores)[UNITS][2][4], Running<D>& running) {
    float kept[2], base[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float largest = running.largest[half];
#pragma unroll
        for (int u = 0; u < UNITS; u++) {
#pragma unroll
            for (int n = 0; n < 2; n++) {
                largest = fmaxf(largest, fmaxf(scores[u][n][half * 2], scores[u][n][half * 2 + 1]));
            }
        }
        largest = fmaxf(largest, __shfl_xor_sync(FULL_WARP, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(FULL_WARP, largest, 2));
        base[half] = base_of(largest) * factor;
        kept[half] = power_of_2(running.largest[half] * factor - base[half]);
        running.largest[half] = largest;
        running.sum[half] *= kept[half];
    }
    // Mostly the largest score was seen before, and the factors are 1.
    if (__any_sync(FULL_WARP, kept[0] != 1.0f || kept[1] != 1.0f)) {
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) running.mixed[n][i] *= kept[i / 2];
        }
    }
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
#pragma unroll
        for (int n = 0; n < 2; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float weight = power_of_2(fmaf(scores[u][n][i], factor, -base[i / 2]));
                scores[u][n][i] = weight;
                running.sum[i / 2] += weight;
            }
        }
    }
}

// Adds 16 values by their weights.
template <class T, class C, int D>
__device__ __forceinline__ void add_values(const float (&weights)[2][4], const unsigned char* values,
                                           const __half2 (&scales)[2], Running<D>& running) {
    using M = typename Operand<T, C>::type;
    const uint32_t a[4] = {pack_2(weights[0][0], weights[0][1], M()), pack_2(weights[0][2], weights[0][3], M()),
                           pack_2(weights[1][0], weights[1][1], M()), pack_2(weights[1][2], weights[1][3], M())};
#pragma unroll
    for (int step = 0; step < D / 32; step++) {
        uint32_t b[4][2];
        load_values<C, D>(values, step, scales, b);
#pragma unroll
        for (int n = 0; n < 4; n++) mma_16816(running.mixed[step * 4 + n], a, b[n], M());
    }
}

// Multiplies scores with what their keys are multiples of, caps them, and hides what is not seen. The keys
// are those from `first` on; `scales` are theirs.
template <class C>
__device__ __forceinline__ void finish_scores(const Scoring& scoring, const float* scales, int first,
                                              const Sight (&sights)[2], bool hides, float (&scores)[2][4]) {
    const int j = threadIdx.x % 4 * 2;
    const auto each = [&](auto change) {
#pragma unroll
        for (int n = 0; n < 2; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) change(scores[n][i], n * 8 + j + i % 2, sights[i / 2]);
        }
    };
    if constexpr (IS_SCALED<C>) each([&](float& score, int column, Sight) { score *= scales[column]; });
    if (scoring.caps()) each([&](float& score, int, Sight) { score = scoring.cap(score); });
    if (!hides) return;
    each([&](float& score, int column, Sight sight) {
        const int key = first + column;
        if (key < sight.begin || key >= sight.end) score = -INFINITY;
    });
}

// What the lane's values are multiples of, of 16. What lies outside of `[begin, end)` may be no number.
template <class C>
__device__ __forceinline__ void pair_scales(const float* scales, int begin, int end, __half2 (&to)[2]) {
    if constexpr (IS_SCALED<C>) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int at = threadIdx.x % 4 * 2 + i * 8;
            const float low = at >= begin && at < end ? scales[at] : 0.0f;
            const float high = at + 1 >= begin && at + 1 < end ? scales[at + 1] : 0.0f;
            to[i] = __floats2half2_rn(low, high);
        }
    } else {
        to[0] = to[1] = __float2half2_rn(1.0f);
    }
}

// Sums over the four lanes that share rows.
template <int D> __device__ __forceinline__ void finish_sums(Running<D>& running) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        running.sum[half] += __shfl_xor_sync(FULL_WARP, running.sum[half], 1);
        running.sum[half] += __shfl_xor_sync(FULL_WARP, running.sum[half], 2);
    }
}

// Begins to copy 16 keys or values of the row `from` of the cache on, with `num_threads` threads of which
// this is `thread`. Those outside of `[begin, end)` become zeros: what lies there may be no number.
template <class C, int D>
__device__ __forceinline__ void copy_unit(unsigned char* to, const C* cache, int from, int head_dim, int begin,
                                          int end, int thread, int num_threads) {
    constexpr int PIECES = Rows<C, D>::PIECES;
    const int bytes = head_dim * static_cast<int>(sizeof(C));
    const auto* source = reinterpret_cast<const unsigned char*>(cache + static_cast<int64_t>(max(from, 0)) * head_dim);
#pragma unroll
    for (int i = thread; i < UNIT * PIECES; i += num_threads) {
        const int row = i / PIECES, piece = i % PIECES;
        const bool is_there = from >= 0 && row >= begin && row < end && piece * 16 < bytes;
        cp_async_16(to + Rows<C, D>::at(row, piece), source + (is_there ? row * bytes + piece * 16 : 0), is_there);
    }
}

// Begins to copy the scales of 16 keys or values; four threads do.
__device__ __forceinline__ void copy_scales(float* to, const float* scales, int from, int thread) {
    if (thread >= 0 && thread < 4) cp_async_16(to + thread * 4, scales + max(from, 0) + thread * 4, from >= 0);
}

// Of types that have a product: the model's own, and 8 bits.
#define SCONCE_FOR_MMA(DEFINE)                                                                     \
    DEFINE(f16, f16, f16, f16)                                                                     \
    DEFINE(f16, f16, fp8, fp8)                                                                     \
    DEFINE(f16, f16, int8_t, int8)                                                                 \
    DEFINE(bf16, bf16, bf16, bf16)                                                                 \
    DEFINE(bf16, bf16, fp8, fp8)                                                                   \
    DEFINE(bf16, bf16, int8_t, int8)
