// Attention of rows of many tokens by tensor cores, as FlashAttention-2 (Dao, 2023): a block has a tile of
// 64 packed queries, 16 for each warp, and goes through the keys that they see, whose next tile is copied
// while one is used.
//
// Tiles of keys begin at multiples of their length, and what a query doesn't see changes nothing: so its
// result does not depend on how its prompt is cut, or where in a tile it is.
#include "attention_mma.cuh"

constexpr int WARPS = 4;
constexpr int TILE = WARPS * QUERIES;

// Shared memory: two stages of keys, then of values, and their scales.
template <class C, int D> struct Stages {
    static constexpr int UNITS = D <= 128 ? 4 : 2;
    static constexpr int KEYS = UNITS * UNIT;
    static constexpr int UNIT_BYTES = UNIT * Rows<C, D>::BYTES;
    static constexpr int SCALES = IS_SCALED<C> ? KEYS * static_cast<int>(sizeof(float)) : 0;
    static constexpr int STAGE = UNITS * UNIT_BYTES + SCALES;

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

// A warp's queries: what each of a lane's two rows sees, what some of them see, and what all do.
struct Rows16 {
    Sight own[2], any, all;
    bool exist;
};

template <class T, class C>
__device__ __forceinline__ Rows16 rows_of(const Attention<T, C>& a, const Work& work, int first, int end) {
    Rows16 rows;
    rows.exist = first < end;
    const int last = min(first + QUERIES, end) - 1;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int query = first + static_cast<int>(threadIdx.x) % WARP / 4 + half * 8;
        rows.own[half] = query < end ? sight_of(a, work, query) : Sight{0, 0};
    }
    const Sight early = sight_of(a, work, first), late = sight_of(a, work, last);
    rows.any = {early.begin, late.end};
    // Rows past the end see nothing, but nobody reads what they get.
    rows.all = {late.begin, early.end};
    return rows;
}

template <class T, class C, int D>
__device__ __forceinline__ void score_tile(const QueryFragments<T, C, D>& queries, const Scoring& scoring,
                                           unsigned char* keys, int first, const Rows16& rows,
                                           float (&scores)[Stages<C, D>::UNITS][2][4]) {
    using S = Stages<C, D>;
    const bool hides = first < rows.all.begin || first + S::KEYS > rows.all.end;
#pragma unroll
    for (int u = 0; u < S::UNITS; u++) {
        multiply_keys<T, C, D>(queries, keys + u * S::UNIT_BYTES, scores[u]);
        finish_scores<C>(scoring, S::scales(keys) + u * UNIT, first + u * UNIT, rows.own, hides, scores[u]);
    }
}

// Goes through all tiles of keys.
template <class T, class C, int D>
__device__ __forceinline__ void attend_tile(const Attention<T, C>& a, const Work& work, int kv_head,
                                            const QueryFragments<T, C, D>& queries, const Rows16& rows,
                                            unsigned char* shared, Running<D>& running) {
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
        const bool sees = rows.exist && first < rows.any.end && first + S::KEYS > rows.any.begin;
        float scores[S::UNITS][2][4];
        // The keys have arrived, and all warps have left the stages that are filled next.
        cp_async_wait<1>();
        __syncthreads();
        copy(0, first + S::KEYS, stage ^ 1);
        if (sees) {
            score_tile<T, C, D>(queries, scoring, S::stage(shared, 0, stage), first, rows, scores);
            weigh<S::UNITS, D>(scoring.factor, scores, running);
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
            add_values<T, C, D>(scores[u], values + u * S::UNIT_BYTES, scales, running);
        }
    }
    cp_async_wait<0>();
    finish_sums(running);
}

// Stores a warp's results by way of shared memory, so that rows are written in pieces of 16 bytes.
template <class T, class C, int D>
__device__ __forceinline__ void store_tile(const Attention<T, C>& a, const Work& work, int kv_head, int first,
                                           int end, float factor, const Running<D>& running, T* room) {
    constexpr int STRIDE = D + 8;
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = lane / 4 + half * 8, head = kv_head * a.group + (first + row) % a.group;
        const float scale = normalizer(running.largest[half] * factor, running.sum[half], a.sinks, head);
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                room[row * STRIDE + dimension_of<C>(n, i)] = from_float<T>(running.mixed[n][half * 2 + i] * scale);
            }
        }
    }
    __syncwarp();
    const int packs = a.head_dim / 8, rows = min(QUERIES, end - first);
    for (int i = lane; i < rows * packs; i += WARP) {
        const int row = i / packs, d = i % packs * 8, query = first + row;
        const int64_t token = work.first_token + query / a.group;
        T* to = a.out + (token * a.kv_heads * a.group + kv_head * a.group + query % a.group) * a.head_dim + d;
        store_pack(to, load_pack<T, 8>(room + row * STRIDE + d));
    }
}

template <class T, class C, int D> __device__ __forceinline__ void prefill(const Attention<T, C>& a) {
    SCONCE_DYNAMIC_SHARED(unsigned char, shared);
    wait_for_dependencies();
    launch_dependents();
    const uint32_t count = plan_count(a.plan, a.plan_words, PREFILLS) * a.kv_heads;
    for (uint32_t index = blockIdx.x; index < count; index += gridDim.x) {
        const Work work = read_work(a, PREFILLS, index / a.kv_heads, TILE);
        const int kv_head = index % a.kv_heads;
        if (work.num_queries <= 0) continue;
        const int warp = threadIdx.x / WARP;
        const int first = work.first_query + warp * QUERIES, end = work.first_query + work.num_queries;
        const Rows16 rows = rows_of(a, work, first, end);
        QueryFragments<T, C, D> queries;
        queries.load(a, work, kv_head, first, end);
        Running<D> running;
        attend_tile<T, C, D>(a, work, kv_head, queries, rows, shared, running);
        __syncthreads();
        T* room = reinterpret_cast<T*>(shared) + warp * QUERIES * (D + 8);
        if (rows.exist) store_tile<T, C, D>(a, work, kv_head, first, end, Scoring(a).factor, running, room);
        __syncthreads();
    }
}

#define DEFINE_PREFILL(T, C, D, NAME)                                                              \
    extern "C" __global__ void __launch_bounds__(WARPS * WARP, D <= 64 ? 3 : D <= 128 ? 2 : 1)     \
        NAME(ATTENTION_PARAMETERS(T, C)) {                                                         \
        prefill<T, C, D>(ATTENTION_ARGUMENTS);                                                     \
    }                                                                                              \
    SCONCE_KERNEL(NAME)
#define DEFINE(T, FLOAT, C, CACHE)                                                                 \
    DEFINE_PREFILL(T, C, 64, attention_prefill_64_##FLOAT##_##CACHE)                               \
    DEFINE_PREFILL(T, C, 128, attention_prefill_128_##FLOAT##_##CACHE)                             \
    DEFINE_PREFILL(T, C, 256, attention_prefill_256_##FLOAT##_##CACHE)
SCONCE_FOR_MMA(DEFINE)
