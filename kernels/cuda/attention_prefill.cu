// Attention of rows of many tokens by tensor cores, as FlashAttention-2 (Dao, 2023): a block has a tile of
// packed queries, 32 or 16 for each warp, and goes through the keys that they see, whose next tile is copied
// while one is used.
//
// Tiles of keys begin at multiples of their length, and what a query doesn't see changes nothing: so its
// result does not depend on how its prompt is cut, or where in a tile it is.
#include "attention_mma.cuh"

constexpr int WARPS = 4;

// Products of 16 queries that a warp has side by side.
template <int D> constexpr int M = D <= 128 ? 2 : 1;
template <int D> constexpr int TILE = WARPS * M<D> * QUERIES;

// Shared memory: two stages of keys, then of values, and their scales. The queries come after them.
template <class C, int D> struct Stages {
    // As many as registers are for: 8 bits take some to be widened.
    static constexpr int UNITS = D * 2 <= 128 * static_cast<int>(sizeof(C)) ? 4 : 2;
    static constexpr int KEYS = UNITS * UNIT;
    static constexpr int UNIT_BYTES = UNIT * Rows<C, D>::BYTES;
    static constexpr int SCALES = IS_SCALED<C> ? KEYS * static_cast<int>(sizeof(float)) : 0;
    static constexpr int STAGE = UNITS * UNIT_BYTES + SCALES;
    static constexpr int BYTES = 4 * STAGE;

    // Of part 0, the keys, or 1, the values.
    __device__ __forceinline__ static unsigned char* stage(unsigned char* shared, int part, int index) {
        return shared + (part * 2 + index) * STAGE;
    }

    __device__ __forceinline__ static float* scales(unsigned char* stage) {
        return reinterpret_cast<float*>(stage + UNITS * UNIT_BYTES);
    }
};

// Begins to copy a tile of keys or values, from `first` on, all threads together.
template <class T, class C, int D>
__device__ __forceinline__ void copy_tile(const Attention<T, C>& a, const uint32_t* table, int kv_head,
                                          const C* cache, const float* scales, int first, int begin, int end,
                                          unsigned char* to) {
    using S = Stages<C, D>;
#pragma unroll
    for (int u = 0; u < S::UNITS; u++) {
        const int key = first + u * UNIT;
        const int row = key < end ? find_unit(a, table, kv_head, key / UNIT) : -1;
        copy_unit<C, D>(to + u * S::UNIT_BYTES, cache, row, a.head_dim, begin - key, end - key, threadIdx.x,
                        WARPS * WARP);
        if constexpr (IS_SCALED<C>) {
            copy_scales(S::scales(to) + u * UNIT, scales, row, static_cast<int>(threadIdx.x) - u * 4);
        }
    }
}

// Of 16 queries, where what they see ends: that of a lane's two rows, of the first and of the last.
struct Ends {
    int own[2], first, last;
};

template <class T, class C>
__device__ __forceinline__ Ends ends_of(const Attention<T, C>& a, const Work& work, int first, int end) {
    const auto of = [&](int query) { return query < end ? sight_of(a, work, query).end : 0; };
    const int row = first + static_cast<int>(threadIdx.x) % WARP / 4;
    return {{of(row), of(row + 8)}, of(first), of(min(first + QUERIES, end) - 1)};
}

// Weighs a tile of keys.
template <class T, class C, int D>
__device__ __forceinline__ void weigh_tile(const QueryRows<T, C, D, M<D>>& queries, const Scoring& scoring,
                                           unsigned char* keys, int first, int window,
                                           const Ends (&ends)[M<D>], Running<D> (&running)[M<D>],
                                           uint32_t (&weights)[Stages<C, D>::UNITS][M<D>][4]) {
    using S = Stages<C, D>;
    float scores[M<D>][S::UNITS][2][4];
    multiply_keys<T, C, D>(queries, keys, S::UNIT_BYTES, scores);
#pragma unroll
    for (int m = 0; m < M<D>; m++) {
        const bool hides = first < ends[m].last - window || first + S::KEYS > ends[m].first;
        const Sight sights[2] = {{ends[m].own[0] - window, ends[m].own[0]},
                                 {ends[m].own[1] - window, ends[m].own[1]}};
#pragma unroll
        for (int u = 0; u < S::UNITS; u++) {
            const float* scales = S::scales(keys) + u * UNIT;
            finish_scores<C>(scoring, scales, first + u * UNIT, sights, hides, scores[m][u]);
        }
        weigh<S::UNITS, D>(scoring.factor, scores[m], running[m]);
#pragma unroll
        for (int u = 0; u < S::UNITS; u++) to_fragment<T, C>(scores[m][u], weights[u][m]);
    }
}

// Goes through all tiles of keys.
template <class T, class C, int D>
__device__ __forceinline__ void attend_tile(const Attention<T, C>& a, const Work& work, int kv_head,
                                            const QueryRows<T, C, D, M<D>>& queries,
                                            const Ends (&ends)[M<D>], unsigned char* shared,
                                            Running<D> (&running)[M<D>]) {
    using S = Stages<C, D>;
    const Scoring scoring(a);
    const uint32_t* table = a.tables + static_cast<int64_t>(work.table) * a.table_stride;
    const int begin = sight_of(a, work, work.first_query).begin, end = work.end;
    const auto copy = [&](int part, int first, int stage) {
        if (first < end) {
            copy_tile<T, C, D>(a, table, kv_head, part == 0 ? a.keys : a.values,
                               part == 0 ? a.key_scales : a.value_scales, first, begin, end,
                               S::stage(shared, part, stage));
        }
        cp_async_commit();
    };
    int stage = 0;
    copy(0, begin / S::KEYS * S::KEYS, 0);
    copy(1, begin / S::KEYS * S::KEYS, 0);
    for (int first = begin / S::KEYS * S::KEYS; first < end; first += S::KEYS, stage ^= 1) {
        const int last = max(ends[0].last, ends[M<D> - 1].last);
        const bool sees = ends[0].first > 0 && first < last && first + S::KEYS > ends[0].first - a.window;
        uint32_t weights[S::UNITS][M<D>][4];
        // The keys have arrived, and all warps have left the stages that are filled next.
        cp_async_wait<1>();
        __syncthreads();
        copy(0, first + S::KEYS, stage ^ 1);
        if (sees) {
            unsigned char* keys = S::stage(shared, 0, stage);
            weigh_tile<T, C, D>(queries, scoring, keys, first, a.window, ends, running, weights);
        }
        cp_async_wait<1>();
        __syncthreads();
        copy(1, first + S::KEYS, stage ^ 1);
        unsigned char* values = S::stage(shared, 1, stage);
#pragma unroll
        for (int u = 0; u < S::UNITS && sees; u++) {
            __half2 scales[2];
            const int key = first + u * UNIT;
            pair_scales<C>(S::scales(values) + u * UNIT, begin - key, end - key, scales);
            add_values<T, C, D>(weights[u], values + u * S::UNIT_BYTES, scales, running);
        }
    }
    cp_async_wait<0>();
#pragma unroll
    for (int m = 0; m < M<D>; m++) finish_sums(running[m]);
}

// Stores 16 queries' results by way of shared memory, so that rows are written in pieces of 16 bytes.
template <class T, class C, int D>
__device__ __forceinline__ void store_tile(const Attention<T, C>& a, const Work& work, int kv_head, int first,
                                           int end, float factor, const Running<D>& running,
                                           unsigned char* room) {
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = lane / 4 + half * 8, head = kv_head * a.group + (first + row) % a.group;
        const float scale = normalizer(running.largest[half] * factor, running.sum[half], a.sinks, head);
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int d = dimension_of<C>(n, i);
                auto* to = reinterpret_cast<T*>(room + Rows<T, D>::at(row, d / 8)) + d % 8;
                *to = from_float<T>(running.mixed[n][half * 2 + i] * scale);
            }
        }
    }
    __syncwarp();
    const int packs = a.head_dim / 8, rows = min(QUERIES, end - first);
    for (int i = lane; i < rows * packs; i += WARP) {
        const int row = i / packs, d = i % packs * 8, query = first + row;
        const int64_t token = work.first_token + query / a.group;
        T* to = a.out + (token * a.kv_heads * a.group + kv_head * a.group + query % a.group) * a.head_dim + d;
        store_pack(to, load_pack<T, 8>(reinterpret_cast<const T*>(room + Rows<T, D>::at(row, d / 8))));
    }
}

template <class T, class C, int D> __device__ __forceinline__ void prefill(const Attention<T, C>& a) {
    SCONCE_DYNAMIC_SHARED(unsigned char, shared);
    wait_for_dependencies();
    launch_dependents();
    const uint32_t count = plan_count(a.plan, a.plan_words, PREFILLS) * a.kv_heads;
    for (uint32_t index = blockIdx.x; index < count; index += gridDim.x) {
        const Work work = read_work(a, PREFILLS, index / a.kv_heads, TILE<D>);
        const int kv_head = index % a.kv_heads;
        if (work.num_queries <= 0) continue;
        const int warp = threadIdx.x / WARP, end = work.first_query + work.num_queries;
        const int first = work.first_query + warp * M<D> * QUERIES;
        Ends ends[M<D>];
#pragma unroll
        for (int m = 0; m < M<D>; m++) ends[m] = ends_of(a, work, first + m * QUERIES, end);
        QueryRows<T, C, D, M<D>> queries{shared + Stages<C, D>::BYTES};
        queries.rows += warp * queries.BYTES;
        queries.load(a, work, kv_head, first, end);
        Running<D> running[M<D>];
        attend_tile<T, C, D>(a, work, kv_head, queries, ends, shared, running);
        // The queries' place is the warp's own, and as large as its results.
#pragma unroll
        for (int m = 0; m < M<D>; m++) {
            if (ends[m].first > 0) {
                store_tile<T, C, D>(a, work, kv_head, first + m * QUERIES, end, Scoring(a).factor, running[m],
                                    queries.rows + m * QUERIES * Rows<T, D>::BYTES);
            }
        }
        __syncthreads();
    }
}

#define DEFINE_PREFILL(T, C, D, NAME)                                                              \
    extern "C" __global__ void __launch_bounds__(WARPS * WARP, D <= 128 ? 2 : 1)                   \
        NAME(ATTENTION_PARAMETERS(T, C)) {                                                         \
        prefill<T, C, D>(ATTENTION_ARGUMENTS);                                                     \
    }                                                                                              \
    SCONCE_KERNEL(NAME)
#define DEFINE(T, FLOAT, C, CACHE)                                                                 \
    DEFINE_PREFILL(T, C, 64, attention_prefill_64_##FLOAT##_##CACHE)                               \
    DEFINE_PREFILL(T, C, 128, attention_prefill_128_##FLOAT##_##CACHE)                             \
    DEFINE_PREFILL(T, C, 256, attention_prefill_256_##FLOAT##_##CACHE)
SCONCE_FOR_MMA(DEFINE)
