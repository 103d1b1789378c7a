// y = x w^T of at most 8 rows of x, w being 8-bit floats (e4m3) with a scale per row or per square of 128 by
// 128, as fast as w is read. x stays as it is: codes become 16-bit floats in registers, which hold them exactly.
#include "gemv.cuh"

// A warp's part of k: a line of 128 bytes of each row of w, and one column of squares.
constexpr int LINE = 128;

// Lane 4 g + t has of rows g and g + 8 of w 16 codes each at 16 t and at 64 + 16 t, and of row g of x as many
// elements at the same places.
struct Stage {
    uint4 w[2][2];
    uint4 x[2][2];
    float scale;
};

// Two pairs of elements, of codes 1 and 3 and of codes 0 and 2: the exponents' bits and the mantissa's move to
// where the wider type has them, as Marlin does (Frantar et al., 2024), and count for less there.
__device__ __forceinline__ void widen(uint32_t codes, uint32_t (&pairs)[2], f16) {
    pairs[0] = (codes & 0x80008000) | (codes >> 1 & 0x3f803f80);
    pairs[1] = (codes << 8 & 0x80008000) | (codes << 7 & 0x3f803f80);
}
__device__ __forceinline__ void widen(uint32_t codes, uint32_t (&pairs)[2], bf16) {
    pairs[0] = times_2_to_120((codes & 0x80008000) | (codes >> 4 & 0x07f007f0));
    pairs[1] = times_2_to_120((codes << 8 & 0x80008000) | (codes << 4 & 0x07f007f0));
}

// What is left to be multiplied with: of f16 even the smallest is a number that tensor cores take.
template <class T> constexpr float LEFT = 1.0f;
template <> constexpr float LEFT<f16> = 256.0f;

template <class T, bool SQUARES> struct Source {
    const uint8_t* w;
    const T* x;
    const float* scales;
    int k;

    __device__ __forceinline__ void load_weights(Stage& to, int line) const {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int at = line * LINE + half * (LINE / 2);
#pragma unroll
            for (int row = 0; row < 2; row++) {
                to.w[row][half] = at + first() < k ? load_once(w + row * 8 * k + at) : make_uint4(0, 0, 0, 0);
            }
        }
        if constexpr (SQUARES) to.scale = line * LINE < k ? scales[line] : 0.0f;
    }

    __device__ __forceinline__ void load_x(Stage& to, int line) const {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int at = line * LINE + half * (LINE / 2);
            const bool valid = x != nullptr && at + first() < k;
#pragma unroll
            for (int i = 0; i < 2; i++) {
                to.x[half][i] = valid ? *reinterpret_cast<const uint4*>(x + at + i * 8) : make_uint4(0, 0, 0, 0);
            }
        }
    }

    // Where in each half line the lane begins: its pointers are that far.
    static __device__ __forceinline__ int first() { return threadIdx.x % 4 * 16; }
};

// Four columns along k. x: two pairs.
template <class T>
__device__ __forceinline__ void multiply_four(float (&sums)[4], uint32_t low, uint32_t high, uint32_t first,
                                              uint32_t second) {
    uint32_t a[2], b[2];
    widen(low, a, T{});
    widen(high, b, T{});
    mma_16816(sums, {a[0], b[0], a[1], b[1]},
              {__byte_perm(first, second, 0x7632), __byte_perm(first, second, 0x5410)}, T{});
}

template <class T, bool SQUARES>
__device__ __forceinline__ void multiply(float (&totals)[4], const Stage& stage) {
    float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    auto& to = SQUARES ? sums : totals;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const uint4 &low = stage.w[0][half], &high = stage.w[1][half];
        const uint4 &x = stage.x[half][0], &y = stage.x[half][1];
        multiply_four<T>(to, low.x, high.x, x.x, x.y);
        multiply_four<T>(to, low.y, high.y, x.z, x.w);
        multiply_four<T>(to, low.z, high.z, y.x, y.y);
        multiply_four<T>(to, low.w, high.w, y.z, y.w);
    }
    if constexpr (SQUARES) {
#pragma unroll
        for (int i = 0; i < 4; i++) totals[i] = fmaf(stage.scale, sums[i], totals[i]);
    }
}

// x: [rows, k]. w: [n, k], n being a multiple of 16. y: [rows, n]. scales: [n], or of squares
// [ceil(n / 128), width].
template <class T, class Out, bool SQUARES>
__device__ __forceinline__ void fp8_gemv(const T* x, const uint8_t* w, const float* scales, Out* y, int rows,
                                         int n, int k, int width, int accumulate) {
    const int lane = threadIdx.x % WARP;
    const int feature = blockIdx.x * FEATURES + lane / 4, first = lane % 4 * 16;
    Source<T, SQUARES> source;
    source.k = k;
    source.w = w + static_cast<int64_t>(feature) * k + first;
    source.x = lane / 4 < rows ? x + static_cast<int64_t>(lane / 4) * k + first : nullptr;
    source.scales = scales + static_cast<int64_t>(blockIdx.x * FEATURES / LINE) * width;
    float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    stream<LINE, Stage>(source, [&](const Stage& stage) { multiply<T, SQUARES>(sums, stage); });
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float scale = SQUARES ? 1.0f : scales[feature + i / 2 * 8];
        sums[i] *= LEFT<T> * scale;
    }
    finish(sums, y, rows, n, n, accumulate);
}

#define DEFINE_ONE(T, OUT, SQUARES, NAME)                                                          \
    extern "C" __global__ void __launch_bounds__(WARPS* WARP, 2)                                   \
        NAME(const T* x, const uint8_t* w, const float* scales, OUT* y, int rows, int n, int k,    \
             int width, int accumulate) {                                                          \
        fp8_gemv<T, OUT, SQUARES>(x, w, scales, y, rows, n, k, width, accumulate);                 \
    }                                                                                              \
    SCONCE_KERNEL(NAME)
#define DEFINE(T, OUT, SUFFIX)                                                                     \
    DEFINE_ONE(T, OUT, false, fp8_gemv_rows_##SUFFIX)                                              \
    DEFINE_ONE(T, OUT, true, fp8_gemv_squares_##SUFFIX)
DEFINE(f16, f16, f16)
DEFINE(bf16, bf16, bf16)
DEFINE(f16, float, f16_f32)
DEFINE(bf16, float, bf16_f32)
