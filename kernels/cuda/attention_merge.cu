// Joins what attention made of several ranges of keys of one row (FlashDecoding; Dao et al., 2023). A block
// has a query: each warp joins every eighth range, then they join theirs. The order depends on the row
// alone.
#include "attention.cuh"

constexpr int WARPS = 8;
constexpr int MAX_HEAD_DIM = 256;
constexpr uint32_t MAX_QUERIES = 16;
// Dimensions that a lane loads at once, and how often.
constexpr int N = 4;
constexpr int PACKS = MAX_HEAD_DIM / (WARP * N);

__device__ __forceinline__ Merge read_merge(const uint32_t* plan, uint32_t index) {
    const uint32_t* record = plan_record(plan, MERGES, index);
    const auto a = load_pack(record);
    return {static_cast<int>(a.at[0]), static_cast<int>(a.at[1]), static_cast<int>(a.at[2]),
            static_cast<int>(a.at[3]), record[4]};
}

// Whether the query and its partial results exist.
__device__ __forceinline__ bool exists(const Merge& merge, int query, int num_queries,
                                       uint32_t num_partials) {
    const uint64_t rows = static_cast<uint64_t>(merge.num_queries) * static_cast<uint32_t>(merge.num_parts);
    const int least = min(min(merge.first_token, merge.first_query), merge.num_parts);
    return least >= 0 && query < merge.num_queries && merge.first_query < num_queries &&
           merge.partial + rows <= num_partials;
}

struct Joined {
    float largest = -INFINITY, sum = 0.0f, mixed[PACKS][N] = {};
};

// Joins the ranges `first`, `first + WARPS`, ... of a query, whose rows of results are `stride` apart.
__device__ __forceinline__ Joined join(const float* partials, const float2* sums, int first, int num_parts,
                                       int64_t stride, int head_dim) {
    const int lane = threadIdx.x % WARP;
    Joined joined;
    for (int part = first; part < num_parts; part += WARPS) {
        joined.largest = fmaxf(joined.largest, sums[part * stride].x);
    }
    const float base = base_of(joined.largest);
#pragma unroll 4
    for (int part = first; part < num_parts; part += WARPS) {
        const float2 of = sums[part * stride];
        // A range of which the query sees nothing left no values.
        if (of.x == -INFINITY) continue;
        const float weight = exp2f(of.x - base);
        joined.sum += of.y * weight;
#pragma unroll
        for (int i = 0; i < PACKS; i++) {
            const int d = (i * WARP + lane) * N;
            if (d >= head_dim) continue;
            const auto pack = load_pack<float>(partials + part * stride * head_dim + d);
#pragma unroll
            for (int k = 0; k < N; k++) joined.mixed[i][k] += pack.at[k] * weight;
        }
    }
    return joined;
}

template <class T>
__device__ __forceinline__ void merge(const uint32_t* plan, T* out, const float* sinks, const float* partials,
                                      const float2* partial_sums, uint32_t plan_words, int num_tokens,
                                      uint32_t num_partials, int kv_heads, int group, int head_dim) {
    __shared__ float mixed[WARPS][MAX_HEAD_DIM];
    __shared__ float largest[WARPS], sums[WARPS];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    wait_for_dependencies();
    launch_dependents();
    const uint32_t tile = min(max(plan[MERGE_QUERIES], 1u), MAX_QUERIES);
    const uint32_t count = plan_count(plan, plan_words, MERGES) * tile * kv_heads;
    for (uint32_t unit = blockIdx.x; unit < count; unit += gridDim.x) {
        const int kv_head = unit % kv_heads, query = unit / kv_heads % tile;
        const Merge merge = read_merge(plan, unit / kv_heads / tile);
        if (!exists(merge, query, num_tokens * group, num_partials)) continue;
        const int packed = merge.first_query + query, head = kv_head * group + packed % group;
        const int64_t token = static_cast<int64_t>(merge.first_token) + packed / group;
        if (token >= num_tokens) continue;
        const int64_t at = (static_cast<int64_t>(merge.partial) + query) * kv_heads + kv_head;
        const int64_t stride = static_cast<int64_t>(merge.num_queries) * kv_heads;
        const Joined mine =
            join(partials + at * head_dim, partial_sums + at, warp, merge.num_parts, stride, head_dim);
#pragma unroll
        for (int i = 0; i < PACKS; i++) {
            Pack<float, N> pack;
#pragma unroll
            for (int k = 0; k < N; k++) pack.at[k] = mine.mixed[i][k];
            store_pack(&mixed[warp][(i * WARP + lane) * N], pack);
        }
        if (lane == 0) {
            largest[warp] = mine.largest;
            sums[warp] = mine.sum;
        }
        __syncthreads();
        float top = -INFINITY, sum = 0.0f, value = 0.0f;
        for (int w = 0; w < WARPS; w++) top = fmaxf(top, largest[w]);
        for (int w = 0; w < WARPS; w++) {
            const float weight = exp2f(largest[w] - base_of(top));
            sum += sums[w] * weight;
            value += mixed[w][threadIdx.x] * weight;
        }
        if (static_cast<int>(threadIdx.x) < head_dim) {
            T* to = out + (token * kv_heads * group + head) * head_dim;
            to[threadIdx.x] = from_float<T>(value * normalizer(top, sum, sinks, head));
        }
        __syncthreads();
    }
}

#define DEFINE(T, SUFFIX)                                                                          \
    extern "C" __global__ void __launch_bounds__(WARPS * WARP)                                     \
        attention_merge_##SUFFIX(const uint32_t* plan, T* out, const float* sinks,                 \
                                 const float* partials, const float2* partial_sums,                \
                                 uint32_t plan_words, int num_tokens, uint32_t num_partials,       \
                                 int kv_heads, int group, int head_dim) {                          \
        merge<T>(plan, out, sinks, partials, partial_sums, plan_words, num_tokens, num_partials,   \
                 kv_heads, group, head_dim);                                                       \
    }                                                                                              \
    SCONCE_KERNEL(attention_merge_##SUFFIX)
SCONCE_FOR_FLOATS(DEFINE)
