// Matrices of 4- and 8-bit codes: products with at most 8 rows of x, also of experts, rows by index, and the
// whole matrix as floats.
//
// Products are of the codes themselves, which 16-bit floats hold exactly, and of x as it is: scales come
// after, on sums of 32 bits. Against 8-bit activations and integer products that is exact, needs no pass
// over x before, and costs the tensor cores, which are idle here, rather than the integer units, which
// unpack.
#include "gemv.cuh"
#include "moe.cuh"
#include "quantized.cuh"

// x of one tile: of each group two steps of two pairs.
struct Factors {
    uint32_t at[2][2][2];
};

// x: where the lane begins in the tile, of which `left` columns are there.
template <Form F, class T> __device__ __forceinline__ Factors load_factors(const T* x, int left) {
    Factors to = {};
#pragma unroll
    for (int group = 0; group < 2; group++) {
        if (left <= group * GROUP) continue;
        if constexpr (F == Form::W8Halves) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const uint2 four = *reinterpret_cast<const uint2*>(x + group * GROUP + 16 * i);
                to.at[group][i][0] = four.x;
                to.at[group][i][1] = four.y;
            }
        } else {
            const uint4 eight = *reinterpret_cast<const uint4*>(x + group * GROUP);
            to.at[group][0][0] = eight.x;
            to.at[group][0][1] = eight.y;
            to.at[group][1][0] = eight.z;
            to.at[group][1][1] = eight.w;
        }
    }
    return to;
}

// What was added to the codes of a group, or of each half of one, times x: of the two rows of x that a lane
// has sums of.
template <Form F> struct Shift {
    static constexpr int PARTS = F == Form::W8Halves ? 2 : 1;
    float at[2][PARTS][2];
};

template <class T, Form F> __device__ __forceinline__ Shift<F> shift_of(const Factors& x) {
    constexpr uint32_t C = Added<T, F>::OFFSET;
    Shift<F> shift;
#pragma unroll
    for (int group = 0; group < 2; group++) {
        float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
        for (int step = 0; step < 2; step++) {
            mma_16816(sums, {C, C, C, C}, x.at[group][step], T{});
            const int part = step * (Shift<F>::PARTS - 1);
            shift.at[group][part][0] = sums[0];
            shift.at[group][part][1] = sums[1];
            if constexpr (F == Form::W8Halves) sums[0] = sums[1] = sums[2] = sums[3] = 0.0f;
        }
    }
    return shift;
}

// totals += tile x, of a group whose elements have one scale and a minimum.
template <class T, Form F>
__device__ __forceinline__ void multiply_group(float (&totals)[4], const Tile<F>& tile, int group,
                                               const Factors& x, const Shift<F>& shift) {
    float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int step = 0; step < 2; step++) multiply_codes<T>(sums, tile, group, step, x.at[group][step]);
#pragma unroll
    for (int high = 0; high < 2; high++) {
        const float2 scales = scales_of(tile, group, high);
        const float rest = fmaf(scales.y, 1.0f / Added<T, F>::VALUE, scales.x);
#pragma unroll
        for (int col = 0; col < 2; col++) {
            float& total = totals[2 * high + col];
            total = fmaf(scales.x, sums[2 * high + col], total);
            total = fmaf(rest, shift.at[group][0][col], total);
        }
    }
}

// As above, each half with its own scale.
template <class T>
__device__ __forceinline__ void multiply_group(float (&totals)[4], const Tile<Form::W8Halves>& tile,
                                               int group, const Factors& x,
                                               const Shift<Form::W8Halves>& shift) {
#pragma unroll
    for (int step = 0; step < 2; step++) {
        float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        multiply_codes<T>(sums, tile, group, step, x.at[group][step]);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float2 scales = scales_of(tile, group, i / 2);
            const float sum = sums[i] + shift.at[group][step][i % 2];
            totals[i] = fmaf(step == 0 ? scales.x : scales.y, sum, totals[i]);
        }
    }
}

// A block takes two rows of tiles, so that what depends on x alone is done once for both, and its warps take
// turns along k.
constexpr int ROW_TILES = 2;
constexpr int GEMV_WARPS = 16;

// Tiles of a warp that are on their way, in shared memory: registers would hold fewer, and the compiler
// asks for those only when it needs them. Two blocks fit a processor of Hopper, one fits the smallest.
template <Form F> constexpr int STAGES = F == Form::W4 ? 4 : 2;
// Blocks of a processor, as far as registers go: scales of halves take more of them.
template <Form F> constexpr int BLOCKS = F == Form::W8Halves ? 1 : 2;

template <Form F> struct Ring {
    unsigned char at[STAGES<F>][ROW_TILES][TILE_BYTES<F>];
};

// Tokens in order, and the rows of x that they are.
template <class Out> struct InOrder : Target<Out> {
    using Target<Out>::has;
    __device__ __forceinline__ bool has(int row) const { return row < this->rows; }
    __device__ __forceinline__ int source(int row) const { return min(row, this->rows - 1); }
};

// Adds the warps' sums, in order, and puts them where they belong.
template <class Tokens>
__device__ __forceinline__ void finish_tiles(const float (&totals)[ROW_TILES][4], float* room,
                                             const Tokens& tokens) {
    constexpr int OUTPUTS = ROW_TILES * FEATURES * ROWS;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    // The rings' place, which other warps may still read.
    __syncthreads();
#pragma unroll
    for (int tile = 0; tile < ROW_TILES; tile++) {
#pragma unroll
        for (int high = 0; high < 2; high++) {
            const int feature = tile * FEATURES + high * 8 + lane / 4;
            store_pack(room + warp * OUTPUTS + feature * ROWS + lane % 4 * 2,
                       Pack<float, 2>{{totals[tile][2 * high], totals[tile][2 * high + 1]}});
        }
    }
    __syncthreads();
    const int own = threadIdx.x % (ROW_TILES * FEATURES), row = threadIdx.x / (ROW_TILES * FEATURES);
    const int feature = blockIdx.x * ROW_TILES * FEATURES + own;
    if (row >= ROWS || !tokens.has(row, feature)) return;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < GEMV_WARPS; i++) sum += room[i * OUTPUTS + own * ROWS + row];
    tokens.put(row, feature, sum);
}

// x: rows of k elements, at most 8 of which are the tokens: `InOrder`, or a `PairTile`.
template <class T, Form F, class Tokens>
__device__ __forceinline__ void quantized_gemv(const T* x, Matrix matrix, const Tokens& tokens, int k) {
    SCONCE_DYNAMIC_SHARED(Ring<F>, rings);
    constexpr int NUM = STAGES<F>;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    auto& ring = rings[warp].at;
    const int num = (matrix.num_tiles - warp + GEMV_WARPS - 1) / GEMV_WARPS;
    const int row = blockIdx.x * ROW_TILES, last = (tokens.n - 1) / TILE_ROWS;
    // The second row may be past the last, and is not written then.
    const int second = row < last ? matrix.num_tiles * TILE_BYTES<F> : 0;
    const unsigned char* from = matrix.at<F>(row, warp);
    const auto copy = [&](int stage, bool is_there) {
        if (is_there) {
            copy_tile<F>(ring[stage][0], from, lane);
            copy_tile<F>(ring[stage][1], from + second, lane);
        }
        from += GEMV_WARPS * TILE_BYTES<F>;
        cp_async_commit();
    };
    // Nobody writes weights, so they are on their way while the kernels before still run.
#pragma unroll
    for (int i = 0; i < NUM - 1; i++) copy(i, i < num);
    wait_for_dependencies();
    launch_dependents();
    const int col = warp * TILE_COLS;
    int left = tokens.has(lane / 4) ? k - col : 0;
    const T* own = x + static_cast<int64_t>(tokens.source(lane / 4)) * k + col + first_col<F>(lane, 0);
    float totals[ROW_TILES][4] = {};
#pragma unroll 1
    for (int i = 0; i < num; i++) {
        const Factors factors = load_factors<F>(own, left);
        cp_async_wait<NUM - 2>();
        // All lanes' copies are there, and all are done with the stage that is filled next.
        __syncwarp();
        copy((i + NUM - 1) % NUM, i + NUM - 1 < num);
        own += GEMV_WARPS * TILE_COLS;
        left -= GEMV_WARPS * TILE_COLS;
        const Shift<F> shift = shift_of<T, F>(factors);
#pragma unroll
        for (int at = 0; at < ROW_TILES; at++) {
            const Tile<F> tile = read_tile<F>(ring[i % NUM][at], lane);
            multiply_group<T>(totals[at], tile, 0, factors, shift);
            multiply_group<T>(totals[at], tile, 1, factors, shift);
        }
    }
    finish_tiles(totals, reinterpret_cast<float*>(rings), tokens);
}

template <class T> __device__ __forceinline__ void store_four(T* to, const Pack<float, 4>& from) {
    store_pack(to, Pack<T, 4>{{from_float<T>(from.at[0]), from_float<T>(from.at[1]),
                               from_float<T>(from.at[2]), from_float<T>(from.at[3])}});
}

// out: [n, k]. A warp per tile; the grid's second axis goes along the rows.
template <class T, Form F>
__device__ __forceinline__ void dequantize(Matrix matrix, T* out, int n, int k) {
    wait_for_dependencies();
    launch_dependents();
    const int lane = threadIdx.x % WARP, col = (blockIdx.x * WARPS + threadIdx.x / WARP) * TILE_COLS;
    if (col >= k) return;
    const Tile<F> tile = load_tile<F>(matrix.at<F>(blockIdx.y, col / TILE_COLS), lane);
#pragma unroll
    for (int part = 0; part < 8; part++) {
        const int group = part / 4, high = part / 2 % 2, i = part % 2;
        const int row = blockIdx.y * TILE_ROWS + high * 8 + lane / 4;
        if (row >= n || col + group * GROUP >= k) continue;
        T* to = out + static_cast<int64_t>(row) * k + col + group * GROUP + first_col<F>(lane, i);
        store_four(to, elements(tile, group, high, i));
    }
}

// out: [blocks, k]: rows of the matrix. One past its end gives zeros. Four threads take a tile.
template <class T, Form F>
__device__ __forceinline__ void gather_quantized(Matrix matrix, const uint32_t* indices, T* out, int n,
                                                 int k) {
    wait_for_dependencies();
    launch_dependents();
    const uint32_t row = indices[blockIdx.x];
    const bool valid = row < static_cast<uint32_t>(n);
    T* to = out + static_cast<int64_t>(blockIdx.x) * k;
    for (int i = threadIdx.x; i < 4 * matrix.num_tiles; i += blockDim.x) {
        const int lane = row % 8 * 4 + i % 4, col = i / 4 * TILE_COLS;
        const Tile<F> tile = load_tile<F>(matrix.at<F>(valid ? row / TILE_ROWS : 0, i / 4), lane);
#pragma unroll
        for (int part = 0; part < 4; part++) {
            const int group = part / 2;
            if (col + group * GROUP >= k) continue;
            // The row's place is only known here, and tiles are registers.
            const auto low = elements(tile, group, 0, part % 2), high = elements(tile, group, 1, part % 2);
            const Pack<float, 4> none = {};
            T* place = to + col + group * GROUP + first_col<F>(lane, part % 2);
            store_four(place, !valid ? none : row / 8 % 2 == 0 ? low : high);
        }
    }
}

#define DEFINE_GEMV(T, OUT, FORM, NAME)                                                            \
    extern "C" __global__ void __launch_bounds__(GEMV_WARPS* WARP, BLOCKS<FORM>)                   \
        NAME(const T* x, const unsigned char* w, OUT* y, int rows, int n, int k, int stride,       \
             int accumulate) {                                                                     \
        const InOrder<OUT> tokens = {{y, rows, n, stride, accumulate}};                            \
        quantized_gemv<T, FORM>(x, matrix_of(w, k), tokens, k);                                    \
    }                                                                                              \
    SCONCE_KERNEL(NAME)

// The grid is features and tiles of at most 8 pairs. w: matrices of experts.
#define DEFINE_MOE(T, FORM, NAME)                                                                  \
    extern "C" __global__ void __launch_bounds__(GEMV_WARPS* WARP, BLOCKS<FORM>)                   \
        NAME(const T* x, const unsigned char* w, T* y, const uint32_t* tiles, int pairs_per_x,     \
             int n, int k, int stride) {                                                           \
        wait_for_dependencies();                                                                   \
        const uint32_t* tile = tiles + static_cast<int64_t>(blockIdx.y) * (1 + ROWS);              \
        const PairTile<T> pairs = {tile, pairs_per_x, y, n, stride};                               \
        if (pairs.expert() == NONE) return;                                                        \
        const Matrix matrix = matrix_of(w, k).of_expert<FORM>(pairs.expert(), n);                  \
        quantized_gemv<T, FORM>(x, matrix, pairs, k);                                              \
    }                                                                                              \
    SCONCE_KERNEL(NAME)

#define DEFINE_WHOLE(T, FORM, SUFFIX)                                                              \
    extern "C" __global__ void __launch_bounds__(WARPS* WARP)                                      \
        dequantize_##SUFFIX(const unsigned char* w, T* out, int n, int k) {                        \
        dequantize<T, FORM>(matrix_of(w, k), out, n, k);                                           \
    }                                                                                              \
    SCONCE_KERNEL(dequantize_##SUFFIX)                                                             \
    extern "C" __global__ void __launch_bounds__(WARPS* WARP)                                      \
        gather_quantized_##SUFFIX(const unsigned char* w, const uint32_t* indices, T* out, int n,  \
                                  int k) {                                                         \
        gather_quantized<T, FORM>(matrix_of(w, k), indices, out, n, k);                            \
    }                                                                                              \
    SCONCE_KERNEL(gather_quantized_##SUFFIX)

#define DEFINE(FORM, NAME)                                                                         \
    DEFINE_GEMV(f16, f16, FORM, gemv_##NAME##_f16)                                                 \
    DEFINE_GEMV(bf16, bf16, FORM, gemv_##NAME##_bf16)                                              \
    DEFINE_GEMV(f16, float, FORM, gemv_##NAME##_f16_f32)                                           \
    DEFINE_GEMV(bf16, float, FORM, gemv_##NAME##_bf16_f32)                                         \
    DEFINE_MOE(f16, FORM, moe_gemv_##NAME##_f16)                                                   \
    DEFINE_MOE(bf16, FORM, moe_gemv_##NAME##_bf16)                                                 \
    DEFINE_WHOLE(float, FORM, NAME##_f32)                                                          \
    DEFINE_WHOLE(f16, FORM, NAME##_f16)                                                            \
    DEFINE_WHOLE(bf16, FORM, NAME##_bf16)
DEFINE(Form::W4, w4)
DEFINE(Form::W8, w8)
DEFINE(Form::W8Halves, w8_halves)
