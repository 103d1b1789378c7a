// Joins what attention made of several ranges of keys of one row (FlashDecoding; Dao et al., 2023). A warp
// has a query, or a block, where there are many ranges. The order depends on the row alone.
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

struct Results {
    const float* partials;
    const float2* sums;
    uint32_t num_partials;
    int num_tokens, kv_heads, group, head_dim;
};

// A query of the plan that is to be joined, of one head of keys.
struct Query {
    int num_parts;
    int64_t first, stride; // of its partial results
    int64_t row;           // of the output
    int head;
};

__device__ __forceinline__ bool find(const Results& r, const uint32_t* plan, uint32_t unit, uint32_t tile,
                                     Query& to) {
    const int kv_head = unit % r.kv_heads, query = unit / r.kv_heads % tile;
    const Merge merge = read_merge(plan, unit / r.kv_heads / tile);
    if (!exists(merge, query, r.num_tokens * r.group, r.num_partials)) return false;
    const int packed = merge.first_query + query;
    const int64_t token = static_cast<int64_t>(merge.first_token) + packed / r.group;
    to.num_parts = merge.num_parts;
    to.first = (static_cast<int64_t>(merge.partial) + query) * r.kv_heads + kv_head;
    to.stride = static_cast<int64_t>(merge.num_queries) * r.kv_heads;
    to.head = kv_head * r.group + packed % r.group;
    to.row = token * r.kv_heads * r.group + to.head;
    return token < r.num_tokens;
}

// Ranges that one warp joins: their loads are all on their way at once.
constexpr int FEW = 8;

// Few ranges: a warp has the query, a lane each range's sum.
template <class T>
__device__ __forceinline__ void merge_few(const Results& r, const Query& query, T* out, const float* sinks) {
    const int lane = threadIdx.x % WARP;
    float2 own = make_float2(-INFINITY, 0.0f);
    if (lane < query.num_parts) own = r.sums[query.first + lane * query.stride];
    const float largest = warp_max(own.x), base = base_of(largest);
    // A range of which the query sees nothing left no values.
    const float weight = own.x == -INFINITY ? 0.0f : exp2f(own.x - base);
    const float scale = normalizer(largest, warp_sum(own.y * weight), sinks, query.head);
    const float* from = r.partials + query.first * r.head_dim;
#pragma unroll
    for (int i = 0; i < PACKS; i++) {
        const int d = (i * WARP + lane) * N;
        if (i * WARP * N >= r.head_dim) break;
        const bool is_there = d < r.head_dim;
        float mixed[N] = {};
#pragma unroll
        for (int part = 0; part < FEW; part++) {
            const float of_part = __shfl_sync(FULL_WARP, weight, part);
            if (!is_there || of_part == 0.0f) continue;
            const auto pack = load_pack<float>(from + part * query.stride * r.head_dim + d);
#pragma unroll
            for (int k = 0; k < N; k++) mixed[k] += pack.at[k] * of_part;
        }
        if (!is_there) continue;
        Pack<T, N> pack;
#pragma unroll
        for (int k = 0; k < N; k++) pack.at[k] = from_float<T>(mixed[k] * scale);
        store_pack(out + query.row * r.head_dim + d, pack);
    }
}

// Many: each warp of a block joins every eighth, then they join theirs.
template <class T>
__device__ __forceinline__ void merge_many(const Results& r, const Query& query, T* out, const float* sinks) {
    __shared__ float mixed[WARPS][MAX_HEAD_DIM];
    __shared__ float largest[WARPS], sums[WARPS];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const Joined mine = join(r.partials + query.first * r.head_dim, r.sums + query.first, warp,
                                    query.num_parts, query.stride, r.head_dim);
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
    if (static_cast<int>(threadIdx.x) < r.head_dim) {
        T* to = out + query.row * r.head_dim;
        to[threadIdx.x] = from_float<T>(value * normalizer(top, sum, sinks, query.head));
    }
    __syncthreads();
}

template <class T>
__device__ __forceinline__ void merge(const uint32_t* plan, T* out, const float* sinks, const Results& r,
                                      uint32_t plan_words) {
    __shared__ int has_many;
    const uint32_t warp = threadIdx.x / WARP;
    if (threadIdx.x == 0) has_many = 0;
    __syncthreads();
    wait_for_dependencies();
    launch_dependents();
    const uint32_t tile = min(max(plan[MERGE_QUERIES], 1u), MAX_QUERIES);
    const uint32_t count = plan_count(plan, plan_words, MERGES) * tile * r.kv_heads;
    for (uint32_t unit = blockIdx.x + warp * gridDim.x; unit < count; unit += WARPS * gridDim.x) {
        Query query;
        if (!find(r, plan, unit, tile, query)) continue;
        if (query.num_parts <= FEW) merge_few(r, query, out, sinks);
        if (query.num_parts > FEW) has_many = 1;
    }
    __syncthreads();
    if (has_many == 0) return;
    for (uint32_t unit = blockIdx.x; unit < count; unit += gridDim.x) {
        Query query;
        if (find(r, plan, unit, tile, query) && query.num_parts > FEW) merge_many(r, query, out, sinks);
    }
}

#define DEFINE(T, SUFFIX)                                                                          \
    extern "C" __global__ void __launch_bounds__(WARPS * WARP)                                     \
        attention_merge_##SUFFIX(const uint32_t* plan, T* out, const float* sinks,                 \
                                 const float* partials, const float2* partial_sums,                \
                                 uint32_t plan_words, int num_tokens, uint32_t num_partials,       \
                                 int kv_heads, int group, int head_dim) {                          \
        merge<T>(plan, out, sinks,                                                                 \
                 {partials, partial_sums, num_partials, num_tokens, kv_heads, group, head_dim},    \
                 plan_words);                                                                      \
    }                                                                                              \
    SCONCE_KERNEL(attention_merge_##SUFFIX)
SCONCE_FOR_FLOATS(DEFINE)
