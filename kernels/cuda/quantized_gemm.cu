// Products of matrices of codes with more rows of x than the reading of the codes hides: up to a few
// hundred.
//
// As Marlin (Frantar et al., 2024) does, codes lie in the order of the tensor cores' fragments and become
// 16-bit floats in registers; they and x come through shared memory, a few stages ahead. A block takes 128 rows
// of the matrix, 32 a warp, and up to 64 rows of x, the tokens. Where that makes too few blocks, several share
// a tile along k, and a second kernel adds their parts in order: no token's result depends on which others
// there are.
#include "moe.cuh"
#include "quantized.cuh"

constexpr int WARPS = 4;
// Tiles of a warp, one above the other: what it takes of x serves both.
constexpr int ROW_TILES = 2;
constexpr int STAGES = 4;
// Blocks of a processor, as far as registers go.
template <int TOKENS> constexpr int BLOCKS = TOKENS == 64 ? 3 : 4;

__device__ __forceinline__ uint32_t pack_pair(float low, float high, bf16) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return __bfloat16_as_ushort(pair.x) | static_cast<uint32_t>(__bfloat16_as_ushort(pair.y)) << 16;
}
__device__ __forceinline__ uint32_t pack_pair(float low, float high, f16) {
    const __half2 pair = __floats2half2_rn(low, high);
    return __half_as_ushort(pair.x) | static_cast<uint32_t>(__half_as_ushort(pair.y)) << 16;
}

// A code's byte, made part of a 32-bit float: it and 32768.
constexpr float BASE = 32768.0f;
__device__ __forceinline__ float with_base(uint32_t bytes, int i) {
    return __uint_as_float(__byte_perm(bytes, 0x4700, 0x5404 | i << 4));
}

// Both halves of a pair.
__device__ __forceinline__ uint32_t broadcast(float x, bf16) { return pack_pair(x, x, bf16{}); }
__device__ __forceinline__ uint32_t broadcast(float x, f16) { return pack_pair(x, x, f16{}); }

// The left operands of a group's two steps of 16 columns: w as 16-bit floats, of 4-bit codes by arithmetic of
// 16 bits, whose scales those of bf16 are rounded to.
template <class T>
__device__ __forceinline__ void fragments(uint32_t (&a)[2][4], const Tile<Form::W4>& tile, int group) {
    // What `pair_4` puts above the codes.
    constexpr uint32_t BASE = Added<T, Form::W4>::OFFSET ^ 0x80008000;
#pragma unroll
    for (int high = 0; high < 2; high++) {
        const float2 scales = scales_of(tile, group, high);
        const uint32_t scale = broadcast(scales.x, T{}), minimum = broadcast(scales.y, T{});
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t codes = pair_4(tile.codes[0].at[2 * group + high], i, T{});
            a[i / 2][i % 2 * 2 + high] = scaled_difference(codes, BASE, scale, minimum, T{});
        }
    }
}

template <class T, Form F>
__device__ __forceinline__ void fragment(uint32_t (&a)[4], const Tile<F>& tile, int group, int step);

template <class T, Form F>
__device__ __forceinline__ void fragments(uint32_t (&a)[2][4], const Tile<F>& tile, int group) {
    fragment<T>(a[0], tile, group, 0);
    fragment<T>(a[1], tile, group, 1);
}

// The left operand of one step, of 8-bit codes.
template <class T, Form F>
__device__ __forceinline__ void fragment(uint32_t (&a)[4], const Tile<F>& tile, int group, int step) {
#pragma unroll
    for (int high = 0; high < 2; high++) {
        const float2 scales = scales_of(tile, group, high);
        const float scale = F == Form::W8Halves && step == 1 ? scales.y : scales.x;
        const float minimum = F == Form::W8Halves ? -128.0f * scale : scales.y;
        const float base = fmaf(-BASE, scale, minimum);
#pragma unroll
        for (int pair = 0; pair < 2; pair++) {
            const uint32_t bytes = tile.codes[group].at[2 * high + step];
            a[2 * pair + high] = pack_pair(fmaf(with_base(bytes, pair), scale, base),
                                           fmaf(with_base(bytes, pair + 2), scale, base), T{});
        }
    }
}

// x of a stage: rows of 128 bytes, whose 16-byte pieces change places, so that what the lanes of a warp
// take at once lies in different banks.
template <class T, int TOKENS> struct Staged {
    T at[TOKENS][TILE_COLS];

    static __device__ __forceinline__ int place(int token, int col) {
        const int swap = (token & 1) << 2 | (token & 2);
        return (col / 8 ^ swap) * 8 + col % 8;
    }

    // Begins to copy a tile's columns of the tokens; those that there aren't are zero.
    template <class Tokens>
    __device__ __forceinline__ void begin(const T* x, const Tokens& tokens, int col, int k) {
#pragma unroll
        for (int i = 0; i < (TOKENS * 8 + WARPS * WARP - 1) / (WARPS * WARP); i++) {
            const int piece = i * WARPS * WARP + threadIdx.x, token = piece / 8, from = col + piece % 8 * 8;
            if (token >= TOKENS) break;
            const bool valid = tokens.has(token) && from < k;
            const T* address = valid ? x + static_cast<int64_t>(tokens.source(token)) * k + from : x;
            cp_async_16(&at[token][place(token, piece % 8 * 8)], address, valid);
        }
    }

    // The right operand of both steps of a group, for 8 tokens.
    template <Form F>
    __device__ __forceinline__ void load(uint32_t (&b)[2][2], int first_token, int group, int lane) const {
        const int token = first_token + lane / 4;
        if constexpr (F == Form::W8Halves) {
#pragma unroll
            for (int step = 0; step < 2; step++) {
                const int col = group * GROUP + first_col<F>(lane, step);
                const uint2 four = *reinterpret_cast<const uint2*>(&at[token][place(token, col)]);
                b[step][0] = four.x;
                b[step][1] = four.y;
            }
        } else {
            const int col = group * GROUP + first_col<F>(lane, 0);
            const uint4 eight = *reinterpret_cast<const uint4*>(&at[token][place(token, col)]);
            b[0][0] = eight.x;
            b[0][1] = eight.y;
            b[1][0] = eight.z;
            b[1][1] = eight.w;
        }
    }
};

template <class T, Form F, int TOKENS> struct Stage {
    Staged<T, TOKENS> x;
    unsigned char tiles[WARPS][ROW_TILES][TILE_BYTES<F>];
};

// sums += tiles x, for all the tokens.
template <class T, Form F, int TOKENS>
__device__ __forceinline__ void multiply_tiles(float (&sums)[ROW_TILES][TOKENS / 8][4],
                                               const Stage<T, F, TOKENS>& stage, int warp, int lane) {
    Tile<F> tiles[ROW_TILES];
#pragma unroll
    for (int t = 0; t < ROW_TILES; t++) tiles[t] = read_tile<F>(stage.tiles[warp][t], lane);
#pragma unroll
    for (int group = 0; group < 2; group++) {
        uint32_t a[ROW_TILES][2][4];
#pragma unroll
        for (int t = 0; t < ROW_TILES; t++) fragments<T>(a[t], tiles[t], group);
#pragma unroll
        for (int i = 0; i < TOKENS / 8; i++) {
            uint32_t b[2][2];
            stage.x.template load<F>(b, i * 8, group, lane);
#pragma unroll
            for (int t = 0; t < ROW_TILES; t++) {
                mma_16816(sums[t][i], a[t][0], b[0], T{});
                mma_16816(sums[t][i], a[t][1], b[1], T{});
            }
        }
    }
}

// The tokens of a block, in order; with more than one part of k, the target is `parts`: [parts, rows, n].
template <class Out> struct InOrder {
    Target<Out> y;
    float* parts;
    int first, left;

    __device__ __forceinline__ bool has(int token) const { return token < left; }
    __device__ __forceinline__ int source(int token) const { return token; }
    __device__ __forceinline__ void put(int token, int feature, float sum) const {
        const int row = first + token;
        if (parts == nullptr) {
            if (y.has(row, feature)) y.put(row, feature, sum);
        } else if (y.has(row, feature)) {
            parts[(static_cast<int64_t>(blockIdx.z) * y.rows + row) * y.n + feature] = sum;
        }
    }
};

// The tokens of a tile of pairs. `sources`: in shared memory, the rows of x, or -1.
template <class T> struct Gathered {
    PairTile<T> pairs;
    const int* sources;

    __device__ __forceinline__ bool has(int token) const { return sources[token] >= 0; }
    __device__ __forceinline__ int source(int token) const { return sources[token]; }
    __device__ __forceinline__ void put(int token, int feature, float sum) const {
        if (pairs.has(token, feature)) pairs.put(token, feature, sum);
    }
};

// x: rows of k elements, of which `tokens` knows the block's: `InOrder`, or `Gathered`. The grid is tokens,
// features and parts of k, of `tiles` tiles each.
template <class T, Form F, int TOKENS, class Tokens>
__device__ __forceinline__ void quantized_gemm(const T* x, Matrix matrix, const Tokens& tokens, int n, int k,
                                               int tiles) {
    using One = Stage<T, F, TOKENS>;
    SCONCE_DYNAMIC_SHARED(One, stages);
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int row = (blockIdx.y * WARPS + warp) * ROW_TILES;
    const int begin = blockIdx.z * tiles, num = min(tiles, matrix.num_tiles - begin);
    // Warps past the last row read it again, and write nothing.
    const int last = (n - 1) / TILE_ROWS;
    const unsigned char* from[ROW_TILES] = {matrix.at<F>(min(row, last), begin),
                                            matrix.at<F>(min(row + 1, last), begin)};
    const auto copy_codes = [&](int tile) {
        if (tile >= num) return;
#pragma unroll
        for (int t = 0; t < ROW_TILES; t++) {
            copy_tile<F>(stages[tile % STAGES].tiles[warp][t], from[t] + tile * TILE_BYTES<F>, lane);
        }
    };
    const auto copy_x = [&](int tile) {
        if (tile < num) stages[tile % STAGES].x.begin(x, tokens, (begin + tile) * TILE_COLS, k);
        cp_async_commit();
    };
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) copy_codes(i);
    wait_for_dependencies();
    launch_dependents();
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) copy_x(i);
    float sums[ROW_TILES][TOKENS / 8][4] = {};
    for (int i = 0; i < num; i++) {
        cp_async_wait<STAGES - 2>();
        // Everybody's copies are there, and everybody is done with the stage that is filled next.
        __syncthreads();
        copy_codes(i + STAGES - 1);
        copy_x(i + STAGES - 1);
        multiply_tiles(sums, stages[i % STAGES], warp, lane);
    }
#pragma unroll
    for (int at = 0; at < ROW_TILES * TOKENS / 8 * 4; at++) {
        const int t = at / (TOKENS / 8 * 4), i = at % (TOKENS / 8 * 4);
        const int token = i / 4 * 8 + lane % 4 * 2 + i % 2;
        const int feature = (row + t) * TILE_ROWS + lane / 4 + i % 4 / 2 * 8;
        tokens.put(token, feature, sums[t][i / 4][i % 4]);
    }
}

// Adds the parts: [num, rows, n].
template <class Out>
__device__ __forceinline__ void add_parts(const float* parts, Target<Out> y, int num) {
    wait_for_dependencies();
    launch_dependents();
    const int feature = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
    if (feature >= y.n) return;
    const int64_t step = static_cast<int64_t>(y.rows) * y.n;
    const float* from = parts + static_cast<int64_t>(row) * y.n + feature;
    float sum = 0.0f;
    for (int i = 0; i < num; i++) sum += from[i * step];
    if (y.has(row, feature)) y.put(row, feature, sum);
}

#define DEFINE_ADD(OUT, SUFFIX)                                                                    \
    extern "C" __global__ void __launch_bounds__(256)                                              \
        add_parts_##SUFFIX(const float* parts, OUT* y, int rows, int n, int stride,                \
                           int accumulate, int num) {                                              \
        add_parts<OUT>(parts, {y, rows, n, stride, accumulate}, num);                              \
    }                                                                                              \
    SCONCE_KERNEL(add_parts_##SUFFIX)
SCONCE_FOR_FLOATS(DEFINE_ADD)

#define DEFINE_TOKENS(T, OUT, FORM, NAME, TOKENS)                                                  \
    extern "C" __global__ void __launch_bounds__(WARPS* WARP, BLOCKS<TOKENS>) NAME##_##TOKENS(    \
        const T* x, const unsigned char* w, OUT* y, float* parts, int rows, int n, int k,          \
        int stride, int accumulate, int tiles) {                                                   \
        const int first = blockIdx.x * TOKENS;                                                     \
        const InOrder<OUT> tokens = {{y, rows, n, stride, accumulate}, parts, first, rows - first}; \
        const T* own = x + static_cast<int64_t>(first) * k;                                        \
        quantized_gemm<T, FORM, TOKENS>(own, matrix_of(w, k), tokens, n, k, tiles);                \
    }                                                                                              \
    SCONCE_KERNEL(NAME##_##TOKENS)

#define DEFINE_TYPES(T, OUT, FORM, NAME)                                                           \
    DEFINE_TOKENS(T, OUT, FORM, NAME, 16)                                                          \
    DEFINE_TOKENS(T, OUT, FORM, NAME, 32)                                                          \
    DEFINE_TOKENS(T, OUT, FORM, NAME, 64)

// The product of a tile of pairs with their expert's matrix.
template <class T, Form F, int TOKENS>
__device__ __forceinline__ void moe_gemm(const T* x, const unsigned char* w, const PairTile<T>& pairs, int k) {
    __shared__ int sources[TOKENS];
    for (int i = threadIdx.x; i < TOKENS; i += blockDim.x) sources[i] = pairs.has(i) ? pairs.source(i) : -1;
    __syncthreads();
    const Matrix matrix = matrix_of(w, k).of_expert<F>(pairs.expert(), pairs.n);
    const Gathered<T> tokens = {pairs, sources};
    quantized_gemm<T, F, TOKENS>(x, matrix, tokens, pairs.n, k, matrix.num_tiles);
}

// The grid is tiles and features.
#define DEFINE_MOE_TOKENS(T, FORM, NAME, TOKENS)                                                   \
    extern "C" __global__ void __launch_bounds__(WARPS* WARP, BLOCKS<TOKENS>) NAME##_##TOKENS(    \
        const T* x, const unsigned char* w, T* y, const uint32_t* tiles, int pairs_per_x, int n,   \
        int k, int stride) {                                                                       \
        wait_for_dependencies();                                                                   \
        const uint32_t* tile = tiles + static_cast<int64_t>(blockIdx.x) * (1 + TOKENS);            \
        const PairTile<T> pairs = {tile, pairs_per_x, y, n, stride};                               \
        if (pairs.expert() == NONE) return;                                                        \
        moe_gemm<T, FORM, TOKENS>(x, w, pairs, k);                                                 \
    }                                                                                              \
    SCONCE_KERNEL(NAME##_##TOKENS)

#define DEFINE_MOE(T, FORM, NAME)                                                                  \
    DEFINE_MOE_TOKENS(T, FORM, NAME, 16)                                                           \
    DEFINE_MOE_TOKENS(T, FORM, NAME, 32)                                                           \
    DEFINE_MOE_TOKENS(T, FORM, NAME, 64)

#define DEFINE(FORM, NAME)                                                                         \
    DEFINE_MOE(f16, FORM, moe_gemm_##NAME##_f16)                                                   \
    DEFINE_MOE(bf16, FORM, moe_gemm_##NAME##_bf16)                                                 \
    DEFINE_TYPES(f16, f16, FORM, gemm_##NAME##_f16)                                                \
    DEFINE_TYPES(bf16, bf16, FORM, gemm_##NAME##_bf16)                                             \
    DEFINE_TYPES(f16, float, FORM, gemm_##NAME##_f16_f32)                                          \
    DEFINE_TYPES(bf16, float, FORM, gemm_##NAME##_bf16_f32)
DEFINE(Form::W4, w4)
DEFINE(Form::W8, w8)
DEFINE(Form::W8Halves, w8_halves)
