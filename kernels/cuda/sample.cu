// Draws a token per row: temperature, min-p, top-k, top-p, each on what its predecessors left, then the
// inverse of the cumulated distribution in the order of ids at a Philox number, as the processor's sampler
// does it, and without sorting.
//
// `weigh_logits` sums each chunk's weights. A row without top-k and top-p then needs no more than one chunk
// of its logits: that in which the draw lies. For the others `gather_likely` copies the tokens near enough
// to the likeliest that the cut must be among them, mostly a few hundred, and `choose_tokens` finds the cut
// by search on the integers that sort as logits do: so many are as likely, or so much mass.
#include "sampling.cuh"

// What a thread has found within each level's reach.
struct Likely {
    uint32_t num[LEVELS] = {}, mass[LEVELS] = {};

    __device__ __forceinline__ void add(float distance, float weight) {
        if (distance <= -reach_of(LEVELS - 1)) return;
        // Eight of them fit into a word.
        const uint32_t part = static_cast<uint32_t>(weight * (1 << 28));
#pragma unroll
        for (int level = 0; level < LEVELS; level++) {
            if (distance <= -reach_of(level)) continue;
            num[level]++;
            mass[level] += part;
        }
    }

    // Adds it to the block's, of which thread 0 has cleared both. Of integers, so in any order.
    __device__ __forceinline__ void give(uint32_t* nums, uint32_t* masses) const {
#pragma unroll
        for (int level = 0; level < LEVELS; level++) {
            const uint32_t n = warp_sum(num[level]), m = warp_sum(mass[level] >> 8);
            if (threadIdx.x % WARP != 0) continue;
            atomicAdd(&nums[level], n);
            atomicAdd(&masses[level], m);
        }
    }
};

// rows: [gridDim.y]. bests, weighed: [gridDim.y, gridDim.x]
extern "C" __global__ void __launch_bounds__(CHUNK_THREADS)
    weigh_logits(const SampleRow* rows, const float* logits, const float* adjusted, const Best* bests,
                 Weighed* weighed, uint32_t vocab) {
    __shared__ double room[WARP];
    __shared__ Weighed shared;
    wait_for_dependencies();
    const SampleRow row = rows[blockIdx.y];
    if (!draws(row)) return;
    const Best best = row_best(bests + row_begin(blockIdx.y, gridDim.x), gridDim.x);
    if (best.id == NONE) return;
    if (threadIdx.x == 0) shared = Weighed{};
    const Weights weights(row, best.logit);
    const bool is_filtered = filters(row);
    const float* from = logits_of(row, logits, adjusted, vocab);
    float x[CHUNK_EACH];
#pragma unroll
    for (int i = 0; i < CHUNK_EACH; i++) {
        const uint32_t id = chunk_begin() + threadIdx.x + i * CHUNK_THREADS;
        x[i] = id < vocab ? from[id] : -INFINITY;
    }
    double mass = 0.0;
    uint32_t all = 0;
    Likely likely;
#pragma unroll
    for (int i = 0; i < CHUNK_EACH; i++) {
        if (!weights.keeps(x[i])) continue;
        const float distance = weights.distance(x[i]), weight = exp_of(distance);
        mass += weight;
        all++;
        if (is_filtered) likely.add(distance, weight);
    }
    // Its barriers also let all see what thread 0 has cleared.
    mass = block_sum(mass, room);
    if (is_filtered) {
        likely.give(shared.num, shared.likely);
        all = warp_sum(all);
        if (threadIdx.x % WARP == 0) atomicAdd(&shared.all, all);
        __syncthreads();
    }
    if (threadIdx.x != 0) return;
    shared.mass = mass;
    weighed[row_begin(blockIdx.y, gridDim.x) + blockIdx.x] = shared;
}
SCONCE_KERNEL(weigh_logits)

// A warp together: the smallest level that has what is wanted. A lane adds up one level of every fourth
// chunk.
__device__ __forceinline__ Plan plan(const SampleRow& row, const Weighed* chunks, uint32_t num_chunks) {
    const uint32_t lane = threadIdx.x % WARP, level = lane % LEVELS;
    double mass = 0.0, likely = 0.0;
    uint32_t all = 0, all_before = 0, num = 0, before = 0;
    for (uint32_t c = lane; c < num_chunks; c += WARP) {
        mass += chunks[c].mass;
        all += chunks[c].all;
        all_before += c < blockIdx.x ? chunks[c].all : 0;
    }
    for (uint32_t c = lane / LEVELS; c < num_chunks; c += WARP / LEVELS) {
        const uint32_t here = chunks[c].num[level];
        num += here;
        before += c < blockIdx.x ? here : 0;
        likely += chunks[c].likely[level];
    }
    for (int offset = LEVELS; offset < WARP; offset *= 2) {
        num += __shfl_xor_sync(FULL_WARP, num, offset);
        before += __shfl_xor_sync(FULL_WARP, before, offset);
        likely += __shfl_xor_sync(FULL_WARP, likely, offset);
    }
    mass = warp_sum(mass);
    all = warp_sum(all);
    all_before = warp_sum(all_before);
    const bool by_number = row.top_k != 0 && row.top_k < all;
    const bool has_mass = row.top_p < 1.0f && likely * (1.0 / (1 << 20)) >= mass * row.top_p;
    const uint32_t enough = __ballot_sync(FULL_WARP, by_number ? num >= row.top_k : has_mass);
    if (enough == 0) return {mass, all, INFINITY, all, all_before};
    const int first = __ffs(enough) - 1;
    num = __shfl_sync(FULL_WARP, num, first);
    return {mass, all, reach_of(first), num, __shfl_sync(FULL_WARP, before, first)};
}

// plans: [gridDim.y]. ids, likely: [gridDim.y, MAX_GATHERED]
extern "C" __global__ void __launch_bounds__(CHUNK_THREADS)
    gather_likely(const SampleRow* rows, const float* logits, const float* adjusted, const Best* bests,
                  const Weighed* weighed, Plan* plans, uint32_t* ids, float* likely, uint32_t vocab) {
    __shared__ Plan shared;
    __shared__ uint32_t of_warps[CHUNK_THREADS / WARP];
    wait_for_dependencies();
    const SampleRow row = rows[blockIdx.y];
    if (!draws(row) || !filters(row)) return;
    const int64_t begin = row_begin(blockIdx.y, gridDim.x);
    const Best best = row_best(bests + begin, gridDim.x);
    if (best.id == NONE) return;
    const uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    if (warp == 0) {
        const Plan made = plan(row, weighed + begin, gridDim.x);
        if (lane == 0) shared = made;
        if (lane == 0 && blockIdx.x == 0) plans[blockIdx.y] = made;
    }
    __syncthreads();
    if (shared.gathered > MAX_GATHERED) return;
    const Weights weights(row, best.logit);
    const Plan level = shared;
    const float* from = logits_of(row, logits, adjusted, vocab);
    // A warp's tokens follow each other, and so do the lanes' of one load: the list is in the order of ids.
    const uint32_t first = chunk_begin() + warp * (CHUNK_EACH * WARP) + lane;
    float x[CHUNK_EACH];
    uint32_t num = 0, lanes[CHUNK_EACH];
#pragma unroll
    for (int i = 0; i < CHUNK_EACH; i++) {
        const uint32_t id = first + i * WARP;
        x[i] = id < vocab ? from[id] : -INFINITY;
    }
#pragma unroll
    for (int i = 0; i < CHUNK_EACH; i++) {
        lanes[i] = __ballot_sync(FULL_WARP, level.has(weights, x[i]));
        num += __popc(lanes[i]);
    }
    if (lane == 0) of_warps[warp] = num;
    __syncthreads();
    uint32_t to = shared.before;
    for (uint32_t w = 0; w < warp; w++) to += of_warps[w];
    const int64_t list = row_begin(blockIdx.y, MAX_GATHERED);
#pragma unroll
    for (int i = 0; i < CHUNK_EACH; i++) {
        if (lanes[i] >> lane & 1) {
            const int64_t at = list + to + __popc(lanes[i] & ((1u << lane) - 1));
            ids[at] = first + i * WARP;
            likely[at] = x[i];
        }
        to += __popc(lanes[i]);
    }
}
SCONCE_KERNEL(gather_likely)
