// Attention of one query token, or a few with drafts, over long stretches of keys (FlashDecoding; Dao et
// al., 2023), by tensor cores. A block has up to 16 packed queries and a chunk of keys. Its warps take
// turns at units of 16 keys, each with its own ring of copies in flight, and don't wait for each other
// until their results are joined: the kernel is as fast as memory is.
#include "attention_mma.cuh"

constexpr int WARPS = 4;

template <class C, int D> struct Ring {
    // 16 rows of keys, 16 of values, and what they are multiples of.
    static constexpr int HALF = UNIT * Rows<C, D>::BYTES;
    static constexpr int SCALES = IS_SCALED<C> ? 2 * UNIT * static_cast<int>(sizeof(float)) : 0;
    static constexpr int BYTES = 2 * HALF + SCALES;
    static constexpr int STAGES = HALF <= 1024 ? 6 : HALF <= 2048 ? 5 : 3;
    static constexpr int WARP_BYTES = STAGES * BYTES;
};

// Floats from one row of results to the next, in shared memory: so that rows begin in different banks.
template <int D> constexpr int RESULT_STRIDE = D + 8;

// A warp's units of a chunk. The rows where they lie are found by 32 lanes at once, for later.
template <class T, class C, int D> struct Stream {
    const Attention<T, C>& a;
    const Work& work;
    unsigned char* ring;
    const uint32_t* table;
    int kv_head, first_unit, num_units, rows;

    __device__ __forceinline__ int unit(int index) const { return first_unit + index * WARPS; }

    __device__ __forceinline__ void find_rows(int index) {
        const int mine = index + threadIdx.x % WARP;
        rows = mine < num_units ? find_unit(a, table, kv_head, unit(mine)) : -1;
    }

    // Begins to copy unit `index`, if there is one.
    __device__ __forceinline__ void copy(int index, int begin) {
        if (index % WARP == 0) find_rows(index);
        const int row = __shfl_sync(FULL_WARP, rows, index % WARP);
        if (index < num_units) {
            using R = Ring<C, D>;
            const int lane = threadIdx.x % WARP, key = unit(index) * UNIT;
            unsigned char* to = ring + index % R::STAGES * R::BYTES;
            copy_unit<C, D>(to, a.keys, row, a.head_dim, begin - key, work.end - key, lane, WARP);
            copy_unit<C, D>(to + R::HALF, a.values, row, a.head_dim, begin - key, work.end - key, lane, WARP);
            if constexpr (IS_SCALED<C>) {
                auto* scales = reinterpret_cast<float*>(to + 2 * R::HALF);
                copy_scales(scales, a.key_scales, row, lane);
                copy_scales(scales + UNIT, a.value_scales, row, lane - 4);
            }
        }
        cp_async_commit();
    }
};

// Goes through the warp's units of a chunk.
template <class T, class C, int D>
__device__ __forceinline__ void attend_chunk(const Attention<T, C>& a, const Work& work, int kv_head,
                                             unsigned char* ring, Running<D>& running) {
    using R = Ring<C, D>;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int end_query = work.first_query + work.num_queries;
    // The first query sees the earliest keys.
    const int begin = max(work.begin, sight_of(a, work, work.first_query).begin);
    Sight sights[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int query = work.first_query + lane / 4 + half * 8;
        sights[half] = query < end_query ? sight_of(a, work, query) : Sight{0, 0};
        sights[half] = {max(sights[half].begin, work.begin), min(sights[half].end, work.end)};
    }
    const uint32_t* table = a.tables + static_cast<int64_t>(work.table) * a.table_stride;
    // A warp's units are the same wherever what is seen begins.
    const int chunk_unit = work.begin / UNIT + warp;
    const int skipped = max(0, begin / UNIT - chunk_unit + WARPS - 1) / WARPS;
    const int first_unit = chunk_unit + skipped * WARPS;
    const int num_units = max(0, (work.end + UNIT - 1) / UNIT - first_unit + WARPS - 1) / WARPS;
    Stream<T, C, D> stream{a, work, ring, table, kv_head, first_unit, num_units, -1};
#pragma unroll
    for (int i = 0; i < R::STAGES - 1; i++) stream.copy(i, begin);
    QueryFragments<T, C, D> queries;
    queries.load(a, work, kv_head, work.first_query, end_query);
    const Scoring scoring(a);
    for (int i = 0; i < num_units; i++) {
        cp_async_wait<R::STAGES - 2>();
        // All lanes' copies have arrived, and all have left the stage that is filled next.
        __syncwarp();
        stream.copy(i + R::STAGES - 1, begin);
        const unsigned char* keys = ring + i % R::STAGES * R::BYTES;
        const auto* scales = reinterpret_cast<const float*>(keys + 2 * R::HALF);
        float scores[1][2][4];
        multiply_keys<T, C, D>(queries, keys, scores[0]);
        finish_scores<C>(scoring, scales, stream.unit(i) * UNIT, sights, true, scores[0]);
        weigh<1, D>(scoring.factor, scores, running);
        __half2 value_scales[2];
        const int key = stream.unit(i) * UNIT;
        pair_scales<C>(scales + UNIT, begin - key, work.end - key, value_scales);
        add_values<T, C, D>(scores[0], keys + R::HALF, value_scales, running);
    }
    cp_async_wait<0>();
    __syncwarp();
    finish_sums(running);
#pragma unroll
    for (int half = 0; half < 2; half++) running.largest[half] *= scoring.factor;
}

// Stores eight neighbors.
template <class T> __device__ __forceinline__ void store_8(T* to, const float (&x)[8]) {
    Pack<T, 8> pack;
#pragma unroll
    for (int i = 0; i < 8; i++) pack.at[i] = from_float<T>(x[i]);
    store_pack(to, pack);
}

__device__ __forceinline__ void store_8(float* to, const float (&x)[8]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        store_pack(to + half * 4, Pack<float, 4>{x[half * 4], x[half * 4 + 1], x[half * 4 + 2], x[half * 4 + 3]});
    }
}

// The results of all warps of a query, joined.
struct Joined {
    float largest, sum, weights[WARPS];
};

__device__ __forceinline__ Joined join(const float2 (*sums)[QUERIES], int query) {
    Joined joined = {-INFINITY, 0.0f, {}};
#pragma unroll
    for (int w = 0; w < WARPS; w++) joined.largest = fmaxf(joined.largest, sums[w][query].x);
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
        joined.weights[w] = power_of_2(sums[w][query].x - base_of(joined.largest));
        joined.sum += sums[w][query].y * joined.weights[w];
    }
    return joined;
}

// Joins the warps' results, which are in shared memory, and stores them.
template <class T, class C, int D>
__device__ __forceinline__ void store_chunk(const Attention<T, C>& a, const Work& work, int kv_head,
                                            const unsigned char* rings, const float2 (*sums)[QUERIES]) {
    const int packs = a.head_dim / 8;
    for (int i = threadIdx.x; i < work.num_queries * packs; i += WARPS * WARP) {
        const int query = i / packs, d = i % packs * 8;
        const Joined joined = join(sums, query);
        float x[8] = {};
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            const auto* from = reinterpret_cast<const float*>(rings + w * Ring<C, D>::WARP_BYTES);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const auto pack = load_pack(from + query * RESULT_STRIDE<D> + d + half * 4);
#pragma unroll
                for (int k = 0; k < 4; k++) x[half * 4 + k] += pack.at[k] * joined.weights[w];
            }
        }
        if (work.partial == NOWHERE) {
            const int packed = work.first_query + query, head = kv_head * a.group + packed % a.group;
            const float scale = normalizer(joined.largest, joined.sum, a.sinks, head);
#pragma unroll
            for (int k = 0; k < 8; k++) x[k] *= scale;
            const int64_t token = work.first_token + packed / a.group;
            store_8(a.out + (token * a.kv_heads * a.group + head) * a.head_dim + d, x);
        } else {
            const int64_t at = (static_cast<int64_t>(work.partial) + query) * a.kv_heads + kv_head;
            store_8(a.partials + at * a.head_dim + d, x);
            if (d == 0) a.partial_sums[at] = make_float2(joined.largest, joined.sum);
        }
    }
}

template <class T, class C, int D> __device__ __forceinline__ void decode(const Attention<T, C>& a) {
    SCONCE_DYNAMIC_SHARED(unsigned char, rings);
    __shared__ float2 sums[WARPS][QUERIES];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    unsigned char* ring = rings + warp * Ring<C, D>::WARP_BYTES;
    wait_for_dependencies();
    launch_dependents();
    const uint32_t count = plan_count(a.plan, a.plan_words, DECODES) * a.kv_heads;
    for (uint32_t index = blockIdx.x; index < count; index += gridDim.x) {
        const Work work = read_work(a, DECODES, index / a.kv_heads, QUERIES);
        const int kv_head = index % a.kv_heads;
        if (work.num_queries <= 0) continue;
        Running<D> running;
        attend_chunk<T, C, D>(a, work, kv_head, ring, running);
        auto* results = reinterpret_cast<float*>(ring);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = lane / 4 + half * 8;
            if (row >= work.num_queries) continue;
            if (lane % 4 == 0) sums[warp][row] = make_float2(running.largest[half], running.sum[half]);
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    results[row * RESULT_STRIDE<D> + dimension_of<C>(n, i)] = running.mixed[n][half * 2 + i];
                }
            }
        }
        __syncthreads();
        store_chunk<T, C, D>(a, work, kv_head, rings, sums);
        __syncthreads();
    }
}

#define DEFINE_DECODE(T, C, D, NAME)                                                               \
    extern "C" __global__ void __launch_bounds__(WARPS * WARP, D <= 128 ? 2 : 1)                   \
        NAME(ATTENTION_PARAMETERS(T, C)) {                                                         \
        decode<T, C, D>(ATTENTION_ARGUMENTS);                                                      \
    }                                                                                              \
    SCONCE_KERNEL(NAME)
#define DEFINE(T, FLOAT, C, CACHE)                                                                 \
    DEFINE_DECODE(T, C, 64, attention_decode_64_##FLOAT##_##CACHE)                                 \
    DEFINE_DECODE(T, C, 128, attention_decode_128_##FLOAT##_##CACHE)                               \
    DEFINE_DECODE(T, C, 256, attention_decode_256_##FLOAT##_##CACHE)
SCONCE_FOR_MMA(DEFINE)
