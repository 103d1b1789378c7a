// What happens element by element: gated activations, biases, other types of floats. A thread takes 16
// bytes of the narrower side.
#include "prelude.cuh"

__device__ __forceinline__ int64_t thread_of_grid() {
    return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

struct Silu {
    static __device__ __forceinline__ float of(float x) { return x / (1.0f + expf(-x)); }
};

// Hendrycks and Gimpel (2016), by their approximation.
struct GeluTanh {
    static __device__ __forceinline__ float of(float x) {
        const float inner = 0.7978845608028654f * (x + 0.044715f * x * x * x);
        return 0.5f * x * (1.0f + tanhf(inner));
    }
};

struct GeluErf {
    static __device__ __forceinline__ float of(float x) {
        return 0.5f * x * (1.0f + erff(x * 0.7071067811865476f));
    }
};

// gate_up: [rows, 2, cols]. out: [rows, cols] = f(gate) up. `packs` is of the whole output.
template <class F, class T>
__device__ __forceinline__ void gate(const T* gate_up, T* out, int cols, int64_t packs) {
    constexpr int N = PACK<T>;
    wait_for_dependencies();
    launch_dependents();
    const int64_t at = thread_of_grid();
    if (at >= packs) return;
    const int64_t row = at * N / cols, col = at * N % cols;
    auto x = load_pack<T>(gate_up + 2 * row * cols + col);
    const auto up = load_pack<T>(gate_up + (2 * row + 1) * cols + col);
#pragma unroll
    for (int i = 0; i < N; i++) x.at[i] = from_float<T>(F::of(to_float(x.at[i])) * to_float(up.at[i]));
    store_pack(out + at * N, x);
}

// x: [rows, cols] += bias: [cols]
template <class T> __device__ __forceinline__ void bias(T* x, const T* bias, int cols, int64_t packs) {
    constexpr int N = PACK<T>;
    wait_for_dependencies();
    launch_dependents();
    const int64_t at = thread_of_grid();
    if (at >= packs) return;
    auto sum = load_pack<T>(x + at * N);
    const auto added = load_pack<T>(bias + at * N % cols);
#pragma unroll
    for (int i = 0; i < N; i++) sum.at[i] = from_float<T>(to_float(sum.at[i]) + to_float(added.at[i]));
    store_pack(x + at * N, sum);
}

// x: [packs] of 16 bytes, each element times `factor`.
template <class T> __device__ __forceinline__ void scale(T* x, float factor, int64_t packs) {
    wait_for_dependencies();
    launch_dependents();
    const int64_t at = thread_of_grid() * PACK<T>;
    if (at >= packs * PACK<T>) return;
    auto some = load_pack<T>(x + at);
#pragma unroll
    for (int i = 0; i < PACK<T>; i++) some.at[i] = from_float<T>(to_float(some.at[i]) * factor);
    store_pack(x + at, some);
}

// x: [len] = cap tanh(x / cap)
extern "C" __global__ void __launch_bounds__(256) soft_cap(float* x, float cap, uint32_t len) {
    wait_for_dependencies();
    launch_dependents();
    const int64_t at = thread_of_grid();
    if (at < len) x[at] = cap * tanhf(x[at] / cap);
}
SCONCE_KERNEL(soft_cap)

template <class T, class U> __device__ __forceinline__ void convert(const T* from, U* to, int64_t len) {
    constexpr int N = 8;
    wait_for_dependencies();
    launch_dependents();
    const int64_t begin = thread_of_grid() * N;
    if (begin + N <= len) {
        float some[N];
#pragma unroll
        for (int at = 0; at < N; at += PACK<T>) {
            const auto pack = load_pack<T>(from + begin + at);
#pragma unroll
            for (int i = 0; i < PACK<T>; i++) some[at + i] = to_float(pack.at[i]);
        }
#pragma unroll
        for (int at = 0; at < N; at += PACK<U>) {
            Pack<U, PACK<U>> pack;
#pragma unroll
            for (int i = 0; i < PACK<U>; i++) pack.at[i] = from_float<U>(some[at + i]);
            store_pack(to + begin + at, pack);
        }
    } else {
        for (int64_t i = begin; i < len; i++) to[i] = from_float<U>(to_float(from[i]));
    }
}

#define DEFINE_GATE(F, NAME, T)                                                                    \
    extern "C" __global__ void __launch_bounds__(256)                                              \
        NAME(const T* gate_up, T* out, int cols, uint32_t packs) {                                 \
        gate<F, T>(gate_up, out, cols, packs);                                                     \
    }                                                                                              \
    SCONCE_KERNEL(NAME)

#define DEFINE(T, SUFFIX)                                                                          \
    DEFINE_GATE(Silu, silu_mul_##SUFFIX, T)                                                        \
    DEFINE_GATE(GeluTanh, gelu_tanh_mul_##SUFFIX, T)                                               \
    DEFINE_GATE(GeluErf, gelu_erf_mul_##SUFFIX, T)                                                 \
    extern "C" __global__ void __launch_bounds__(256)                                              \
        add_bias_##SUFFIX(T* x, const T* added, int cols, uint32_t packs) {                        \
        bias<T>(x, added, cols, packs);                                                            \
    }                                                                                              \
    SCONCE_KERNEL(add_bias_##SUFFIX)                                                               \
    extern "C" __global__ void __launch_bounds__(256)                                              \
        scale_##SUFFIX(T* x, float factor, uint32_t packs) {                                       \
        scale<T>(x, factor, packs);                                                                \
    }                                                                                              \
    SCONCE_KERNEL(scale_##SUFFIX)
SCONCE_FOR_FLOATS(DEFINE)

#define DEFINE_CONVERT(T, FROM, U, TO)                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                              \
        convert_##FROM##_##TO(const T* from, U* to, uint32_t len) {                                \
        convert<T, U>(from, to, len);                                                              \
    }                                                                                              \
    SCONCE_KERNEL(convert_##FROM##_##TO)
DEFINE_CONVERT(float, f32, f16, f16)
DEFINE_CONVERT(float, f32, bf16, bf16)
DEFINE_CONVERT(f16, f16, float, f32)
DEFINE_CONVERT(f16, f16, bf16, bf16)
DEFINE_CONVERT(bf16, bf16, float, f32)
DEFINE_CONVERT(bf16, bf16, f16, f16)
