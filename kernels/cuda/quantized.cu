// Matrices of 4- and 8-bit codes: products with at most 8 rows of x, rows by index, and the whole matrix
// as floats.
//
// Products are of the codes themselves, which 16-bit floats hold exactly, and of x as it is: scales come
// after, on sums of 32 bits. Against 8-bit activations and integer products that is exact, needs no pass
// over x before, and costs the tensor cores, which are idle here, rather than the integer units, which
// unpack.
#include "gemv.cuh"
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

// totals += tile x, of a group whose elements have one scale and a minimum.
template <class T, Form F>
__device__ __forceinline__ void multiply_group(float (&totals)[4], const Tile<F>& tile, int group,
                                               const Factors& x) {
    constexpr uint32_t C = Added<T, F>::OFFSET;
    float shift[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int step = 0; step < 2; step++) mma_16816(shift, {C, C, C, C}, x.at[group][step], T{});
    float sums[4] = {shift[0], shift[1], shift[2], shift[3]};
#pragma unroll
    for (int step = 0; step < 2; step++) multiply_codes<T>(sums, tile, group, step, x.at[group][step]);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float2 scales = scales_of(tile, group, i / 2);
        totals[i] = fmaf(scales.x, sums[i], totals[i]);
        totals[i] = fmaf(scales.y * (1.0f / Added<T, F>::VALUE), shift[i % 2], totals[i]);
    }
}

// As above, each half with its own scale.
template <class T>
__device__ __forceinline__ void multiply_group(float (&totals)[4], const Tile<Form::W8Halves>& tile,
                                               int group, const Factors& x) {
    constexpr uint32_t C = Added<T, Form::W8Halves>::OFFSET;
#pragma unroll
    for (int step = 0; step < 2; step++) {
        float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        mma_16816(sums, {C, C, C, C}, x.at[group][step], T{});
        multiply_codes<T>(sums, tile, group, step, x.at[group][step]);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float2 scales = scales_of(tile, group, i / 2);
            totals[i] = fmaf(step == 0 ? scales.x : scales.y, sums[i], totals[i]);
        }
    }
}

// Tiles of a warp that are on their way, in shared memory: registers would hold fewer, and the compiler
// asks for those only when it needs them. Three blocks of a processor have 45 KiB or more under way.
constexpr int STAGES = 4;

// x: [rows, k]. y: [rows, n] in rows of `stride`.
template <class T, Form F, class Out>
__device__ __forceinline__ void quantized_gemv(const T* x, Matrix matrix, Out* y, int rows, int n, int k,
                                               int stride, int accumulate) {
    __shared__ __align__(128) unsigned char rings[WARPS][STAGES][TILE_BYTES<F>];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    auto& ring = rings[warp];
    const int num = (matrix.num_tiles - warp + WARPS - 1) / WARPS;
    const unsigned char* from = matrix.at<F>(blockIdx.x, warp);
    // Nobody writes weights, so they are on their way while the kernels before still run.
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) {
        if (i < num) copy_tile<F>(ring[i], from + i * WARPS * TILE_BYTES<F>, lane);
        cp_async_commit();
    }
    from += (STAGES - 1) * WARPS * TILE_BYTES<F>;
    wait_for_dependencies();
    launch_dependents();
    const int col = warp * TILE_COLS;
    int left = lane / 4 < rows ? k - col : 0;
    const T* own = x + static_cast<int64_t>(min(lane / 4, rows - 1)) * k + col + first_col<F>(lane, 0);
    float totals[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    Factors factors = load_factors<F>(own, left);
    for (int begin = 0; begin < num; begin += STAGES) {
#pragma unroll
        for (int i = 0; i < STAGES; i++) {
            if (begin + i >= num) break;
            cp_async_wait<STAGES - 2>();
            // All lanes' copies are there, and all are done with the stage that is filled next.
            __syncwarp();
            if (begin + i + STAGES - 1 < num) copy_tile<F>(ring[(i + STAGES - 1) % STAGES], from, lane);
            cp_async_commit();
            from += WARPS * TILE_BYTES<F>;
            own += WARPS * TILE_COLS;
            left -= WARPS * TILE_COLS;
            const Factors next = load_factors<F>(own, left);
            const Tile<F> tile = read_tile<F>(ring[i], lane);
            multiply_group<T>(totals, tile, 0, factors);
            multiply_group<T>(totals, tile, 1, factors);
            factors = next;
        }
    }
    finish(totals, y, rows, n, stride, accumulate);
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
    extern "C" __global__ void __launch_bounds__(WARPS* WARP, 3)                                   \
        NAME(const T* x, const unsigned char* w, OUT* y, int rows, int n, int k, int stride,       \
             int accumulate) {                                                                     \
        const Matrix matrix = {w, (k + TILE_COLS - 1) / TILE_COLS};                    \
        quantized_gemv<T, FORM>(x, matrix, y, rows, n, k, stride, accumulate);                     \
    }                                                                                              \
    SCONCE_KERNEL(NAME)

#define DEFINE_WHOLE(T, FORM, SUFFIX)                                                              \
    extern "C" __global__ void __launch_bounds__(WARPS* WARP)                                      \
        dequantize_##SUFFIX(const unsigned char* w, T* out, int n, int k) {                        \
        dequantize<T, FORM>({w, (k + TILE_COLS - 1) / TILE_COLS}, out, n, k);          \
    }                                                                                              \
    SCONCE_KERNEL(dequantize_##SUFFIX)                                                             \
    extern "C" __global__ void __launch_bounds__(WARPS* WARP)                                      \
        gather_quantized_##SUFFIX(const unsigned char* w, const uint32_t* indices, T* out, int n,  \
                                  int k) {                                                         \
        const Matrix matrix = {w, (k + TILE_COLS - 1) / TILE_COLS};                    \
        gather_quantized<T, FORM>(matrix, indices, out, n, k);                                     \
    }                                                                                              \
    SCONCE_KERNEL(gather_quantized_##SUFFIX)

#define DEFINE(FORM, NAME)                                                                         \
    DEFINE_GEMV(f16, f16, FORM, gemv_##NAME##_f16)                                                 \
    DEFINE_GEMV(bf16, bf16, FORM, gemv_##NAME##_bf16)                                              \
    DEFINE_GEMV(f16, float, FORM, gemv_##NAME##_f16_f32)                                           \
    DEFINE_GEMV(bf16, float, FORM, gemv_##NAME##_bf16_f32)                                         \
    DEFINE_WHOLE(float, FORM, NAME##_f32)                                                          \
    DEFINE_WHOLE(f16, FORM, NAME##_f16)                                                            \
    DEFINE_WHOLE(bf16, FORM, NAME##_bf16)
DEFINE(Form::W4, w4)
DEFINE(Form::W8, w8)
DEFINE(Form::W8Halves, w8_halves)
