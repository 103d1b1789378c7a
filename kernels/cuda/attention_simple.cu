// Attention without tensor cores, of any types. A warp has a
// query: its lanes first have a key each, then a part of the values' dimensions.
#include "attention.cuh"

constexpr int WARPS = 4;
constexpr int MAX_HEAD_DIM = 256;
constexpr int DIMS = MAX_HEAD_DIM / WARP;

// A query's sums over the keys seen so far. A lane has the dimensions `lane + 32 i`.
struct Sums {
    float largest = -INFINITY, sum = 0.0f, mixed[DIMS] = {};
};

template <class T, class C>
__device__ __forceinline__ float product(const float* query, const C* key, int head_dim) {
    constexpr int N = 8;
    float sum = 0.0f;
    for (int d = 0; d < head_dim; d += N) {
        // Of f32, eight are more than one load.
        const auto k = load_pack<C, sizeof(C) == 4 ? 4 : N>(key + d);
#pragma unroll
        for (int i = 0; i < (sizeof(C) == 4 ? 4 : N); i++) sum += query[d + i] * to_float(k.at[i]);
        if (sizeof(C) == 4) {
            const auto rest = load_pack<C, 4>(key + d + 4);
#pragma unroll
            for (int i = 0; i < 4; i++) sum += query[d + 4 + i] * to_float(rest.at[i]);
        }
    }
    return sum;
}

// Adds 32 keys from `first` on, a multiple of 32.
template <class T, class C>
__device__ __forceinline__ void add_keys(const Attention<T, C>& a, const Scoring& scoring, const float* query,
                                         const uint32_t* table, int kv_head, int first, Sight sight,
                                         Sums& sums) {
    const int lane = threadIdx.x % WARP, key = first + lane;
    bool is_seen = key >= sight.begin && key < sight.end;
    int row = -1;
    if (is_seen) row = find_unit(a, table, kv_head, key / UNIT);
    is_seen = row >= 0;
    row += key % UNIT;
    float score = -INFINITY;
    if (is_seen) {
        score = product<T>(query, a.keys + static_cast<int64_t>(row) * a.head_dim, a.head_dim);
        if (IS_SCALED<C>) score *= a.key_scales[row];
        if (scoring.caps()) score = scoring.soft_cap * tanhf(score * scoring.inner);
        score *= scoring.factor;
    }
    const float largest = fmaxf(sums.largest, warp_max(score)), base = base_of(largest);
    const float kept = exp2f(sums.largest - base);
    float weight = is_seen ? exp2f(score - base) : 0.0f;
    sums.largest = largest;
    sums.sum = sums.sum * kept + warp_sum(weight);
    if (IS_SCALED<C> && is_seen) weight *= a.value_scales[row];
#pragma unroll
    for (int i = 0; i < DIMS; i++) sums.mixed[i] *= kept;
    for (int j = 0; j < WARP; j++) {
        const float w = __shfl_sync(FULL_WARP, weight, j);
        const int64_t from = __shfl_sync(FULL_WARP, row, j);
        // What is not seen may be no number at all.
        if (w == 0.0f) continue;
        const C* value = a.values + from * a.head_dim;
#pragma unroll
        for (int i = 0; i < DIMS; i++) {
            const int d = lane + i * WARP;
            if (d < a.head_dim) sums.mixed[i] += w * to_float(value[d]);
        }
    }
}

template <class T, class C>
__device__ __forceinline__ void store(const Attention<T, C>& a, const Work& work, int kv_head, int query,
                                      const Sums& sums) {
    const int lane = threadIdx.x % WARP, head = kv_head * a.group + query % a.group;
    if (work.partial != NOWHERE) {
        const int64_t at = (static_cast<int64_t>(work.partial) + query - work.first_query) * a.kv_heads + kv_head;
#pragma unroll
        for (int i = 0; i < DIMS; i++) {
            const int d = lane + i * WARP;
            if (d < a.head_dim) a.partials[at * a.head_dim + d] = sums.mixed[i];
        }
        if (lane == 0) a.partial_sums[at] = make_float2(sums.largest, sums.sum);
        return;
    }
    const float scale = normalizer(sums.largest, sums.sum, a.sinks, head);
    const int64_t token = work.first_token + query / a.group;
    T* to = a.out + (token * a.kv_heads * a.group + head) * a.head_dim;
#pragma unroll
    for (int i = 0; i < DIMS; i++) {
        const int d = lane + i * WARP;
        if (d < a.head_dim) to[d] = from_float<T>(sums.mixed[i] * scale);
    }
}

// Does the work of one list of the plan, whose records have at most `tile` queries.
template <class T, class C>
__device__ __forceinline__ void attend_simply(const Attention<T, C>& a, List list, int tile) {
    __shared__ float room[WARPS][MAX_HEAD_DIM];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const Scoring scoring(a);
    float* query = room[warp];
    wait_for_dependencies();
    launch_dependents();
    const uint32_t count = plan_count(a.plan, a.plan_words, list) * a.kv_heads;
    for (uint32_t unit = blockIdx.x; unit < count; unit += gridDim.x) {
        const Work work = read_work(a, list, unit / a.kv_heads, tile);
        const int kv_head = unit % a.kv_heads;
        const uint32_t* table = a.tables + static_cast<int64_t>(work.table) * a.table_stride;
        const int end = work.first_query + work.num_queries;
        for (int i = work.first_query + warp; i < end; i += WARPS) {
            const T* from = query_at(a, work, kv_head, i);
            for (int d = lane; d < a.head_dim; d += WARP) query[d] = to_float(from[d]);
            __syncwarp();
            Sight sight = sight_of(a, work, i);
            sight = {max(sight.begin, work.begin), min(sight.end, work.end)};
            Sums sums;
            for (int key = sight.begin / WARP * WARP; key < sight.end; key += WARP) {
                add_keys(a, scoring, query, table, kv_head, key, sight, sums);
            }
            store(a, work, kv_head, i, sums);
            __syncwarp();
        }
    }
}

#define DEFINE(T, FLOAT, C, CACHE)                                                                 \
    extern "C" __global__ void __launch_bounds__(WARPS * WARP, 4)                                     \
        attention_simple_##FLOAT##_##CACHE(ATTENTION_PARAMETERS(T, C), int list, int tile) {       \
        attend_simply<T, C>(ATTENTION_ARGUMENTS, static_cast<List>(list), tile);                   \
    }                                                                                              \
    SCONCE_KERNEL(attention_simple_##FLOAT##_##CACHE)
SCONCE_FOR_CACHES(DEFINE)
