// Draws a token per row: temperature, min-p, top-k, top-p, each on what its predecessors left, then the
// inverse of the cumulated distribution in the order of ids at a Philox number, as the processor's sampler
// does it, and without sorting.
//
// `weigh_logits` sums each chunk's weights. A row without top-k and top-p then needs no more than one chunk
// of its logits: that in which the draw lies. For the others `gather_likely` copies the tokens near enough
// to the likeliest that the cut must be among them, mostly a few hundred, and `choose_tokens` finds the cut
// by search on the integers that sort as logits do: so many are as likely, or so much mass.
#include "sampling.cuh"

// rows: [gridDim.y]. bests, weighed: [gridDim.y, gridDim.x]
extern "C" __global__ void __launch_bounds__(CHUNK_THREADS)
    weigh_logits(const SampleRow* rows, const float* logits, const float* adjusted, const Best* bests,
                 Weighed* weighed, uint32_t vocab) {
    __shared__ double room[WARP];
    __shared__ float likely_room[WARP];
    __shared__ uint32_t num_room[WARP];
    wait_for_dependencies();
    const SampleRow row = rows[blockIdx.y];
    if (!draws(row)) return;
    const Best best = row_best(bests + row_begin(blockIdx.y, gridDim.x), gridDim.x);
    if (best.id == NONE) return;
    const Weights weights(row, best.logit);
    const float* from = logits_of(row, logits, adjusted, vocab);
    float x[CHUNK_EACH];
#pragma unroll
    for (int i = 0; i < CHUNK_EACH; i++) {
        const uint32_t id = chunk_begin() + threadIdx.x + i * CHUNK_THREADS;
        x[i] = id < vocab ? from[id] : -INFINITY;
    }
    double mass = 0.0;
    float likely[LEVELS] = {};
    uint32_t num[LEVELS] = {};
#pragma unroll
    for (int i = 0; i < CHUNK_EACH; i++) {
        if (!weights.keeps(x[i])) continue;
        const float weight = weights.of(x[i]);
        mass += weight;
#pragma unroll
        for (int level = 0; level < LEVELS; level++) {
            if (x[i] < level_cutoff(weights, level)) continue;
            likely[level] += weight;
            num[level]++;
        }
    }
    Weighed& to = weighed[row_begin(blockIdx.y, gridDim.x) + blockIdx.x];
    mass = block_sum(mass, room);
    if (threadIdx.x == 0) to.mass = mass;
    if (!filters(row)) return;
    for (int level = 0; level < LEVELS; level++) {
        const float sum = block_sum(likely[level], likely_room);
        const uint32_t count = block_sum(num[level], num_room);
        if (threadIdx.x == 0) to.likely[level] = sum, to.num[level] = count;
    }
}
SCONCE_KERNEL(weigh_logits)

// A warp together: the smallest level that has what is wanted.
__device__ __forceinline__ Plan plan(const SampleRow& row, const Weighed* chunks, uint32_t num_chunks) {
    double mass = 0.0, likely[LEVELS] = {};
    uint32_t num[LEVELS] = {}, before[LEVELS] = {};
    for (uint32_t c = threadIdx.x % WARP; c < num_chunks; c += WARP) {
        mass += chunks[c].mass;
#pragma unroll
        for (int level = 0; level < LEVELS; level++) {
            likely[level] += chunks[c].likely[level];
            num[level] += chunks[c].num[level];
            before[level] += c < blockIdx.x ? chunks[c].num[level] : 0;
        }
    }
    mass = warp_sum(mass);
    // The margin is for sums in 32 bits.
    const double wanted = mass * row.top_p * (1.0 + 1e-5);
    const uint32_t all = warp_sum(num[LEVELS - 1]);
    const bool by_number = row.top_k != 0 && row.top_k < all;
    Plan plan{mass, all, LEVELS - 1, all, warp_sum(before[LEVELS - 1])};
#pragma unroll
    for (int level = LEVELS - 2; level >= 0; level--) {
        const uint32_t count = warp_sum(num[level]);
        const double sum = warp_sum(likely[level]);
        const uint32_t first = warp_sum(before[level]);
        if (by_number ? count >= row.top_k : row.top_p < 1.0f && sum >= wanted) {
            plan.level = level, plan.gathered = count, plan.before = first;
        }
    }
    return plan;
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
    const float cutoff = level_cutoff(weights, shared.level);
    const float* from = logits_of(row, logits, adjusted, vocab);
    // A warp's tokens follow each other, and so do the lanes' of one load: the list is in the order of ids.
    const uint32_t first = chunk_begin() + warp * (CHUNK_EACH * WARP) + lane;
    float x[CHUNK_EACH];
    uint32_t num = 0;
#pragma unroll
    for (int i = 0; i < CHUNK_EACH; i++) {
        const uint32_t id = first + i * WARP;
        x[i] = id < vocab ? from[id] : -INFINITY;
    }
#pragma unroll
    for (int i = 0; i < CHUNK_EACH; i++) num += __popc(__ballot_sync(FULL_WARP, x[i] >= cutoff));
    if (lane == 0) of_warps[warp] = num;
    __syncthreads();
    uint32_t to = shared.before;
    for (uint32_t w = 0; w < warp; w++) to += of_warps[w];
    const int64_t list = row_begin(blockIdx.y, MAX_GATHERED);
#pragma unroll
    for (int i = 0; i < CHUNK_EACH; i++) {
        const bool is_likely = x[i] >= cutoff;
        const uint32_t lanes = __ballot_sync(FULL_WARP, is_likely);
        if (is_likely) {
            const int64_t at = list + to + __popc(lanes & ((1u << lane) - 1));
            ids[at] = first + i * WARP;
            likely[at] = x[i];
        }
        to += __popc(lanes);
    }
}
SCONCE_KERNEL(gather_likely)
