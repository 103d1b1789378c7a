// Rows of 8-bit floats (e4m3, Micikevicius et al., 2022), each with a scale of its own, or with one for each
// 128 of its elements.
#include "prelude.cuh"

// The greatest number of the type.
constexpr float GREATEST = 448.0f;
// Elements that a thread takes at once.
constexpr int N = 8;

template <class T>
__device__ __forceinline__ Pack<float, N> load_floats(const T* x) {
    Pack<float, N> to;
#pragma unroll
    for (int half = 0; half < N; half += 4) {
        const auto some = load_pack<T, 4>(x + half);
#pragma unroll
        for (int i = 0; i < 4; i++) to.at[half + i] = to_float(some.at[i]);
    }
    return to;
}

__device__ __forceinline__ void store_codes(uint8_t* out, const Pack<float, N>& some, float inverse) {
    Pack<uint8_t, N> codes;
#pragma unroll
    for (int i = 0; i < N; i += 2) {
        const float2 pair = make_float2(some.at[i] * inverse, some.at[i + 1] * inverse);
        const uint16_t both = __nv_cvt_float2_to_fp8x2(pair, __NV_SATFINITE, __NV_E4M3);
        codes.at[i] = static_cast<uint8_t>(both);
        codes.at[i + 1] = static_cast<uint8_t>(both >> 8);
    }
    store_pack(out, codes);
}

// x: [rows, cols] = out: [rows, cols] of e4m3, times scales: [rows]. One block per row.
template <class T>
__device__ __forceinline__ void quantize_fp8(const T* x, uint8_t* out, float* scales, int cols) {
    __shared__ float room[WARP];
    const int64_t begin = static_cast<int64_t>(blockIdx.x) * cols;
    wait_for_dependencies();
    float greatest = 0.0f;
    for (int col = threadIdx.x * N; col < cols; col += blockDim.x * N) {
        const auto some = load_floats(x + begin + col);
#pragma unroll
        for (int i = 0; i < N; i++) greatest = fmaxf(greatest, fabsf(some.at[i]));
    }
    greatest = block_max(greatest, room);
    launch_dependents();
    // A row of zeros has any scale.
    const float scale = greatest > 0.0f ? greatest / GREATEST : 1.0f, inverse = 1.0f / scale;
    if (threadIdx.x == 0) scales[blockIdx.x] = scale;
    for (int col = threadIdx.x * N; col < cols; col += blockDim.x * N) {
        const auto some = load_floats(x + begin + col);
        store_codes(out + begin + col, some, inverse);
    }
}

constexpr int GROUP = 128;

// x: [rows, cols] = out: [gridDim.x, cols] of e4m3, times scales: [ceil(cols / 128), gridDim.x]. One block per
// row; those beyond `rows` are zeros.
template <class T>
__device__ __forceinline__ void quantize_fp8_groups(const T* x, uint8_t* out, float* scales, int rows,
                                                    int cols) {
    constexpr int LANES = GROUP / N;
    const int row = blockIdx.x;
    const int64_t begin = static_cast<int64_t>(row) * cols;
    wait_for_dependencies();
    // The lanes of a warp, which has two groups, stay together.
    for (int first = 0; first < cols; first += blockDim.x * N) {
        const int col = first + threadIdx.x * N;
        const bool is_there = row < rows && col < cols;
        Pack<float, N> some{};
        if (is_there) some = load_floats(x + begin + col);
        float greatest = 0.0f;
#pragma unroll
        for (int i = 0; i < N; i++) greatest = fmaxf(greatest, fabsf(some.at[i]));
        for (int offset = LANES / 2; offset > 0; offset /= 2) {
            greatest = fmaxf(greatest, __shfl_xor_sync(FULL_WARP, greatest, offset));
        }
        if (col >= cols) continue;
        // A group of zeros has any scale.
        const float scale = greatest > 0.0f ? greatest / GREATEST : 1.0f, inverse = 1.0f / scale;
        if (col % GROUP == 0) scales[static_cast<int64_t>(col / GROUP) * gridDim.x + row] = scale;
        store_codes(out + begin + col, some, inverse);
    }
}

#define DEFINE(T, SUFFIX)                                                                          \
    extern "C" __global__ void __launch_bounds__(512)                                              \
        quantize_fp8_##SUFFIX(const T* x, uint8_t* out, float* scales, int cols) {                 \
        quantize_fp8<T>(x, out, scales, cols);                                                     \
    }                                                                                              \
    SCONCE_KERNEL(quantize_fp8_##SUFFIX)                                                           \
    extern "C" __global__ void __launch_bounds__(512)                                              \
        quantize_fp8_groups_##SUFFIX(const T* x, uint8_t* out, float* scales, int rows, int cols) {\
        quantize_fp8_groups<T>(x, out, scales, rows, cols);                                        \
    }                                                                                              \
    SCONCE_KERNEL(quantize_fp8_groups_##SUFFIX)
SCONCE_FOR_FLOATS(DEFINE)
