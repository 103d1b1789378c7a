// Rotary position embedding (Su et al., 2021) of queries and keys, with what comes before it (the bias of
// the projection, Qwen3's RMS norm of each head), and the write of keys and values into the paged cache:
// one pass over the fused projection. A few lanes share a head.
#include "kv.cuh"

template <class T, class C> struct Rope {
    T* qkv; // [num_tokens, (num_heads + 2 kv_heads) head_dim]
    const T *bias, *q_norm, *k_norm;
    const float2* table; // [max_positions, rotary_dim / 2] of cosine and sine
    const uint32_t *positions, *slots;
    C *keys, *values;
    float *key_scales, *value_scales;
    int num_tokens, num_heads, kv_heads, head_dim, rotary_dim, is_interleaved, lanes, block_size;
    uint32_t num_slots, max_positions;
    float epsilon;
};

// Two packs of a head that a lane holds: those that rotate together, if it is so.
template <int N> struct Pair {
    int first, second;
    bool has_first, has_second, rotates;
    float a[N], b[N];
};

template <class T, class C, int N>
__device__ __forceinline__ void place(const Rope<T, C>& r, int index, Pair<N>& pair) {
    const int half = r.rotary_dim / 2, num_rotating = r.is_interleaved ? 0 : half / N;
    pair.rotates = index < num_rotating;
    if (pair.rotates) {
        pair.first = index * N;
        pair.second = half + index * N;
    } else {
        const int begin = r.is_interleaved ? 0 : r.rotary_dim;
        pair.first = begin + (index - num_rotating) * 2 * N;
        pair.second = pair.first + N;
    }
    pair.has_first = pair.first < r.head_dim;
    pair.has_second = pair.second < r.head_dim;
}

template <int N, class T>
__device__ __forceinline__ void load_floats(const T* from, const T* bias, bool is_there, float (&to)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) to[i] = 0.0f;
    if (!is_there) return;
    const auto pack = load_pack<T, N>(from);
#pragma unroll
    for (int i = 0; i < N; i++) to[i] = to_float(pack.at[i]);
    if (bias == nullptr) return;
    const auto added = load_pack<T, N>(bias);
#pragma unroll
    for (int i = 0; i < N; i++) to[i] += to_float(added.at[i]);
}

template <int N, class T>
__device__ __forceinline__ void scale_floats(const T* weight, float scale, bool is_there, float (&x)[N]) {
    if (!is_there) return;
    const auto pack = load_pack<T, N>(weight);
#pragma unroll
    for (int i = 0; i < N; i++) x[i] *= scale * to_float(pack.at[i]);
}

template <int N, class C>
__device__ __forceinline__ void store_floats(C* to, bool is_there, float scale, const float (&x)[N]) {
    if (!is_there) return;
    Pack<C, N> pack;
#pragma unroll
    for (int i = 0; i < N; i++) pack.at[i] = from_float<C>(x[i] * scale);
    store_pack(to, pack);
}

__device__ __forceinline__ void turn(float& a, float& b, float2 by) {
    const float x = a * by.x - b * by.y;
    b = b * by.x + a * by.y;
    a = x;
}

// Turns neighbors, as far as the pack at element `begin` is in the part that rotates.
template <int N>
__device__ __forceinline__ void turn_neighbors(const float2* angles, int begin, int end, float (&x)[N]) {
#pragma unroll
    for (int i = 0; i + 1 < N; i += 2) {
        if (begin + i < end) turn(x[i], x[i + 1], angles[(begin + i) / 2]);
    }
}

template <class T, class C, int N>
__device__ __forceinline__ void rotate(const Rope<T, C>& r, uint32_t position, Pair<N>& pair) {
    const float2* angles = r.table + static_cast<int64_t>(position) * (r.rotary_dim / 2);
    if (r.is_interleaved) {
        turn_neighbors(angles, pair.first, r.rotary_dim, pair.a);
        turn_neighbors(angles, pair.second, r.rotary_dim, pair.b);
    } else if (pair.rotates) {
#pragma unroll
        for (int i = 0; i < N; i++) turn(pair.a[i], pair.b[i], angles[pair.first + i]);
    }
}

// Over the lanes of a head, a power of two of them.
template <class F> __device__ __forceinline__ float over_head(float x, int lanes, F join) {
    for (int offset = lanes / 2; offset > 0; offset /= 2) {
        x = join(x, __shfl_xor_sync(FULL_WARP, x, offset));
    }
    return x;
}

// A lane holds `PAIRS` pairs of packs of `N` elements.
template <class T, class C, int N, int PAIRS> __device__ __forceinline__ void rope(const Rope<T, C>& r) {
    const int thread = blockIdx.x * blockDim.x + threadIdx.x;
    const int lane = thread % r.lanes, unit = thread / r.lanes;
    const int all_heads = r.num_heads + 2 * r.kv_heads;
    const int token = unit / all_heads, head = unit % all_heads;
    const bool is_query = head < r.num_heads, is_value = head >= r.num_heads + r.kv_heads;
    uint32_t slot = r.num_slots, position = 0;
    wait_for_dependencies();
    if (token < r.num_tokens) {
        slot = r.slots[token];
        position = r.positions[token];
    }
    // Padding has no slot. Nothing is written then, but the lanes stay for the warp's sums.
    const bool is_live = slot < r.num_slots && position < r.max_positions;

    Pair<N> pairs[PAIRS];
    T* row = r.qkv + static_cast<int64_t>(unit) * r.head_dim;
    float squares = 0.0f;
#pragma unroll
    for (int p = 0; p < PAIRS; p++) {
        auto& pair = pairs[p];
        place(r, lane + p * r.lanes, pair);
        const T* bias = r.bias == nullptr ? nullptr : r.bias + head * r.head_dim;
        load_floats<N>(row + pair.first, bias == nullptr ? nullptr : bias + pair.first,
                       is_live && pair.has_first, pair.a);
        load_floats<N>(row + pair.second, bias == nullptr ? nullptr : bias + pair.second,
                       is_live && pair.has_second, pair.b);
#pragma unroll
        for (int i = 0; i < N; i++) squares += pair.a[i] * pair.a[i] + pair.b[i] * pair.b[i];
    }
    if (r.q_norm != nullptr || r.k_norm != nullptr) {
        squares = over_head(squares, r.lanes, [](float x, float y) { return x + y; });
        const float scale = rsqrtf(squares / r.head_dim + r.epsilon);
        const T* weight = is_query ? r.q_norm : is_value ? nullptr : r.k_norm;
#pragma unroll
        for (int p = 0; p < PAIRS && weight != nullptr; p++) {
            scale_floats<N>(weight + pairs[p].first, scale, pairs[p].has_first, pairs[p].a);
            scale_floats<N>(weight + pairs[p].second, scale, pairs[p].has_second, pairs[p].b);
        }
    }
    launch_dependents();
    if (is_live && !is_value) {
#pragma unroll
        for (int p = 0; p < PAIRS; p++) rotate(r, position, pairs[p]);
    }

    float inverse = 1.0f, scale = 1.0f;
    if (IS_SCALED<C>) {
        float largest = 0.0f;
#pragma unroll
        for (int p = 0; p < PAIRS; p++) {
#pragma unroll
            for (int i = 0; i < N; i++) {
                largest = fmaxf(largest, fmaxf(fabsf(pairs[p].a[i]), fabsf(pairs[p].b[i])));
            }
        }
        largest = over_head(largest, r.lanes, [](float x, float y) { return fmaxf(x, y); });
        scale = largest / 127.0f;
        inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
    }
    if (!is_live) return;
    if (is_query) {
#pragma unroll
        for (int p = 0; p < PAIRS; p++) {
            store_floats<N>(row + pairs[p].first, pairs[p].has_first, 1.0f, pairs[p].a);
            store_floats<N>(row + pairs[p].second, pairs[p].has_second, 1.0f, pairs[p].b);
        }
        return;
    }
    const int kv_head = head - r.num_heads - (is_value ? r.kv_heads : 0);
    const int64_t block = slot / r.block_size;
    const int64_t at = (block * r.kv_heads + kv_head) * r.block_size + slot % r.block_size;
    C* to = (is_value ? r.values : r.keys) + at * r.head_dim;
#pragma unroll
    for (int p = 0; p < PAIRS; p++) {
        store_floats<N>(to + pairs[p].first, pairs[p].has_first, inverse, pairs[p].a);
        store_floats<N>(to + pairs[p].second, pairs[p].has_second, inverse, pairs[p].b);
    }
    if (IS_SCALED<C> && lane == 0) (is_value ? r.value_scales : r.key_scales)[at] = scale;
}

#define DEFINE_ROPE(T, C, NAME, N, PAIRS)                                                          \
    extern "C" __global__ void __launch_bounds__(256)                                              \
        NAME(T* qkv, const T* bias, const T* q_norm, const T* k_norm, const float2* table,         \
             const uint32_t* positions, const uint32_t* slots, C* keys, C* values,                 \
             float* key_scales, float* value_scales, int num_tokens, int num_heads, int kv_heads,  \
             int head_dim, int rotary_dim, int is_interleaved, int lanes, int block_size,          \
             uint32_t num_slots, uint32_t max_positions, float epsilon) {                          \
        rope<T, C, N, PAIRS>({qkv,        bias,           q_norm,     k_norm,     table,           \
                              positions,  slots,          keys,       values,     key_scales,      \
                              value_scales, num_tokens,   num_heads,  kv_heads,   head_dim,        \
                              rotary_dim, is_interleaved, lanes,      block_size, num_slots,       \
                              max_positions, epsilon});                                            \
    }                                                                                              \
    SCONCE_KERNEL(NAME)

// Loads of 16 bytes where the halves that rotate are whole packs; single elements otherwise.
#define DEFINE(T, FLOAT, C, CACHE)                                                                 \
    DEFINE_ROPE(T, C, rope_##FLOAT##_##CACHE, PACK<T>, 1)                                          \
    DEFINE_ROPE(T, C, rope_single_##FLOAT##_##CACHE, 1, 4)
SCONCE_FOR_CACHES(DEFINE)
