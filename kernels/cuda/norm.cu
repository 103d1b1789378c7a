// RMS norm (Zhang and Sennrich, 2019), with the addition to the residual stream before it. One block per
// row.
#include "prelude.cuh"

// residual: [rows, cols], to which `delta` of the same shape is added, if there is one. weight: [cols].
// out: [rows, cols]
template <class T>
__device__ __forceinline__ void add_rms_norm(T* residual, const T* delta, const T* weight, T* out, int cols,
                                             float epsilon) {
    __shared__ float room[WARP];
    constexpr int N = PACK<T>;
    const int64_t begin = static_cast<int64_t>(blockIdx.x) * cols;
    wait_for_dependencies();
    float sum = 0.0f;
    for (int col = threadIdx.x * N; col < cols; col += blockDim.x * N) {
        auto x = load_pack<T>(residual + begin + col);
        if (delta != nullptr) {
            const auto y = load_pack<T>(delta + begin + col);
#pragma unroll
            for (int i = 0; i < N; i++) x.at[i] = from_float<T>(to_float(x.at[i]) + to_float(y.at[i]));
            store_pack(residual + begin + col, x);
        }
#pragma unroll
        for (int i = 0; i < N; i++) sum += to_float(x.at[i]) * to_float(x.at[i]);
    }
    const float scale = rsqrtf(block_sum(sum, room) / cols + epsilon);
    launch_dependents();
    for (int col = threadIdx.x * N; col < cols; col += blockDim.x * N) {
        // Its own writes of above, or what nobody writes meanwhile.
        auto x = load_pack<T>(residual + begin + col);
        const auto w = load_pack<T>(weight + col);
#pragma unroll
        for (int i = 0; i < N; i++) x.at[i] = from_float<T>(to_float(x.at[i]) * scale * to_float(w.at[i]));
        store_pack(out + begin + col, x);
    }
}

#define DEFINE(T, SUFFIX)                                                                          \
    extern "C" __global__ void __launch_bounds__(1024)                                             \
        add_rms_norm_##SUFFIX(T* residual, const T* delta, const T* weight, T* out, int cols,      \
                              float epsilon) {                                                     \
        add_rms_norm<T>(residual, delta, weight, out, cols, epsilon);                              \
    }                                                                                              \
    SCONCE_KERNEL(add_rms_norm_##SUFFIX)
SCONCE_FOR_FLOATS(DEFINE)
