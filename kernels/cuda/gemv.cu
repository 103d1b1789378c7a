// y = x w^T of at most 8 rows of x, which the reading of w bounds: the tensor cores, fed straight from
// global memory, leave the other units free for loads.
#include "gemv.cuh"

// A warp's part of a chunk: a line of 128 bytes of each row of w. Lane 4 g + t has of rows g and g + 8 of w, and of row g of x, 16 bytes each
// at 8 t and at 32 + 8 t. A product needs both sides in one order along k, not in the file's: which
// elements a fragment's places get is the same on both.
struct Stage {
    uint4 w[2][2];
    uint4 x[2];
};

template <class T> struct Source {
    const T* w[2];
    const T* x;
    int k;

    __device__ __forceinline__ void load_weights(Stage& to, int chunk) const {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int at = chunk * CHUNK + half * (CHUNK / 2);
#pragma unroll
            for (int row = 0; row < 2; row++) {
                to.w[row][half] = at + first() < k ? load_once(w[row] + at) : make_uint4(0, 0, 0, 0);
            }
        }
    }

    __device__ __forceinline__ void load_x(Stage& to, int chunk) const {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int at = chunk * CHUNK + half * (CHUNK / 2);
            const bool valid = x != nullptr && at + first() < k;
            to.x[half] = valid ? *reinterpret_cast<const uint4*>(x + at) : make_uint4(0, 0, 0, 0);
        }
    }

    // Where in each half chunk the lane begins: its pointers are that far.
    static __device__ __forceinline__ int first() { return threadIdx.x % 4 * 8; }
};

template <class T> __device__ __forceinline__ void multiply(float (&sums)[4], const Stage& stage) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const uint4 &low = stage.w[0][half], &high = stage.w[1][half], &x = stage.x[half];
        mma_16816(sums, {low.x, high.x, low.y, high.y}, {x.x, x.y}, T{});
        mma_16816(sums, {low.z, high.z, low.w, high.w}, {x.z, x.w}, T{});
    }
}

// x: [rows, k]. w: [n, k]. y: [rows, n]
template <class T, class Out>
__device__ __forceinline__ void gemv(const T* x, const T* w, Out* y, int rows, int n, int k,
                                     int accumulate) {
    const int lane = threadIdx.x % WARP;
    const int feature = blockIdx.x * FEATURES + lane / 4, first = lane % 4 * 8;
    Source<T> source;
    source.k = k;
    // The features past the last repeat it, and are not written.
    source.w[0] = w + static_cast<int64_t>(min(feature, n - 1)) * k + first;
    source.w[1] = w + static_cast<int64_t>(min(feature + 8, n - 1)) * k + first;
    source.x = lane / 4 < rows ? x + static_cast<int64_t>(lane / 4) * k + first : nullptr;
    float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    stream<CHUNK, Stage>(source, [&](const Stage& stage) { multiply<T>(sums, stage); });
    finish(sums, y, rows, n, n, accumulate);
}

#define DEFINE(T, OUT, NAME)                                                                       \
    extern "C" __global__ void __launch_bounds__(WARPS* WARP, 3)                                   \
        NAME(const T* x, const T* w, OUT* y, int rows, int n, int k, int accumulate) {             \
        gemv<T, OUT>(x, w, y, rows, n, k, accumulate);                                             \
    }                                                                                              \
    SCONCE_KERNEL(NAME)
DEFINE(f16, f16, gemv_f16)
DEFINE(bf16, bf16, gemv_bf16)
DEFINE(f16, float, gemv_f16_f32)
DEFINE(bf16, float, gemv_bf16_f32)

// As above, of 32-bit floats, which tensor cores would round: two rows of w per warp.
extern "C" __global__ void __launch_bounds__(WARPS* WARP, 2)
    gemv_f32(const float* x, const float* w, float* y, int rows, int n, int k, int accumulate) {
    const int lane = threadIdx.x % WARP, feature = (blockIdx.x * WARPS + threadIdx.x / WARP) * 2;
    const float* first = w + static_cast<int64_t>(min(feature, n - 1)) * k;
    const float* second = w + static_cast<int64_t>(min(feature + 1, n - 1)) * k;
    wait_for_dependencies();
    launch_dependents();
    float sums[2][ROWS] = {};
#pragma unroll 4
    for (int at = lane * 4; at < k; at += WARP * 4) {
        const auto a = load_pack<float>(first + at), b = load_pack<float>(second + at);
#pragma unroll
        for (int row = 0; row < ROWS; row++) {
            if (row >= rows) break;
            const auto factors = load_pack<float>(x + static_cast<int64_t>(row) * k + at);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                sums[0][row] = fmaf(a.at[i], factors.at[i], sums[0][row]);
                sums[1][row] = fmaf(b.at[i], factors.at[i], sums[1][row]);
            }
        }
    }
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float sum = warp_sum(sums[i][row]);
            if (lane != 0 || row >= rows || feature + i >= n) continue;
            float* to = y + static_cast<int64_t>(row) * n + feature + i;
            *to = accumulate ? *to + sum : sum;
        }
    }
}
SCONCE_KERNEL(gemv_f32)
