// Log-probabilities under the model's own distribution, before anything is added to it: of a row's sampled
// or given token, and of its likeliest. One pass over the logits: each chunk finds its sum and its likeliest,
// and one block per row merges them.
#include "sampling.cuh"

// As many of the likeliest as a request may ask for.
constexpr int MAX_TOP = 20;

constexpr uint64_t LAST = ~uint64_t(0);

// Sums relative to the chunk's greatest logit.
struct ChunkScore {
    double sum;
    float max;
    uint32_t greater; // logits above the token's own
};

// As the host reads it.
struct TokenScore {
    float logprob;
    uint32_t rank, ids[MAX_TOP];
    float logprobs[MAX_TOP];
};

// Sorts the likeliest first, of equal ones the lowest id; what is no number comes last.
__device__ __forceinline__ uint64_t rank_of(float logit, uint32_t id) {
    const uint32_t key = ~ascending(isnan(logit) ? -INFINITY : logit);
    return static_cast<uint64_t>(key) << 32 | id;
}

// The least of all threads' numbers. `room` has 32 elements, and must be another one at the next call.
__device__ __forceinline__ uint64_t block_min(uint64_t x, uint64_t* room) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    for (int offset = WARP / 2; offset > 0; offset /= 2) x = min(x, __shfl_xor_sync(FULL_WARP, x, offset));
    if (lane == 0) room[warp] = x;
    __syncthreads();
    x = lane < warps ? room[lane] : LAST;
    for (int offset = WARP / 2; offset > 0; offset /= 2) x = min(x, __shfl_xor_sync(FULL_WARP, x, offset));
    return x;
}

__device__ __forceinline__ uint32_t token_of(const SampleRow& row, const uint32_t* sampled, uint32_t at) {
    return row.flags & GIVEN ? row.token : sampled[place_of(row, at)];
}

__device__ __forceinline__ bool is_scored(const SampleRow& row, uint32_t at, uint32_t logits_rows,
                                          uint32_t num_sampled) {
    return row.flags & ACTIVE && row.flags & LOGPROBS && row.logits_row < logits_rows &&
           place_of(row, at) < num_sampled;
}

// sampled: [num_sampled]. scores: [gridDim.y, gridDim.x]. tops: [gridDim.y, gridDim.x, MAX_TOP]
extern "C" __global__ void __launch_bounds__(CHUNK_THREADS)
    score_chunks(const SampleRow* rows, const float* logits, const uint32_t* sampled, ChunkScore* scores,
                 uint64_t* tops, uint32_t vocab, uint32_t logits_rows, uint32_t num_sampled) {
    __shared__ float max_room[WARP];
    __shared__ double sum_room[WARP];
    __shared__ uint32_t count_room[WARP];
    __shared__ uint64_t rank_rooms[2][WARP];
    wait_for_dependencies();
    const SampleRow row = rows[blockIdx.y];
    if (!is_scored(row, blockIdx.y, logits_rows, num_sampled)) return;
    const float* from = logits + row_begin(row.logits_row, vocab);
    const uint32_t token = token_of(row, sampled, blockIdx.y);
    const float own = token < vocab ? from[token] : NAN;
    float x[CHUNK_EACH], greatest = -INFINITY;
    uint32_t greater = 0;
#pragma unroll
    for (int i = 0; i < CHUNK_EACH; i++) {
        const uint32_t id = chunk_begin() + threadIdx.x + i * CHUNK_THREADS;
        x[i] = id < vocab ? from[id] : -INFINITY;
        greatest = fmaxf(greatest, x[i]);
        greater += x[i] > own;
    }
    const float max = fminf(block_max(greatest, max_room), FLT_MAX);
    double sum = 0.0;
#pragma unroll
    for (int i = 0; i < CHUNK_EACH; i++) {
        if (x[i] > -INFINITY) sum += exp_of(fminf(__fsub_rn(x[i], max), 0.0f));
    }
    sum = block_sum(sum, sum_room);
    greater = block_sum(greater, count_room);
    const int64_t at = row_begin(blockIdx.y, gridDim.x) + blockIdx.x;
    if (threadIdx.x == 0) scores[at] = {sum, max, greater};

    uint64_t ranks[CHUNK_EACH];
#pragma unroll
    for (int i = 0; i < CHUNK_EACH; i++) {
        const uint32_t id = chunk_begin() + threadIdx.x + i * CHUNK_THREADS;
        ranks[i] = id < vocab ? rank_of(x[i], id) : LAST;
    }
    const uint32_t num = min(row.num_logprobs, static_cast<uint32_t>(MAX_TOP));
    for (uint32_t n = 0; n < num; n++) {
        uint64_t least = LAST;
#pragma unroll
        for (int i = 0; i < CHUNK_EACH; i++) least = min(least, ranks[i]);
        least = block_min(least, rank_rooms[n % 2]);
#pragma unroll
        for (int i = 0; i < CHUNK_EACH; i++) {
            if (ranks[i] == least) ranks[i] = LAST;
        }
        if (threadIdx.x == 0) tops[at * MAX_TOP + n] = least;
    }
}
SCONCE_KERNEL(score_chunks)

__device__ __forceinline__ float logprob_of(float logit, double normalizer) {
    const double logprob = static_cast<double>(fminf(logit, FLT_MAX)) - normalizer;
    // A row of nothing but negative infinities has no distribution.
    if (isnan(logit) || isnan(logprob)) return -INFINITY;
    return static_cast<float>(fmin(logprob, 0.0));
}

// One block per row, at least one thread per chunk. out: [num_sampled]
extern "C" __global__ void __launch_bounds__(1024)
    merge_scores(const SampleRow* rows, const float* logits, const uint32_t* sampled,
                 const ChunkScore* scores, const uint64_t* tops, TokenScore* out, uint32_t vocab,
                 uint32_t chunks, uint32_t logits_rows, uint32_t num_sampled) {
    __shared__ float max_room[WARP];
    __shared__ double sum_room[WARP];
    __shared__ uint32_t count_room[WARP];
    __shared__ uint64_t rank_rooms[2][WARP];
    wait_for_dependencies();
    const SampleRow row = rows[blockIdx.x];
    if (!is_scored(row, blockIdx.x, logits_rows, num_sampled)) return;
    const float* from = logits + row_begin(row.logits_row, vocab);
    const bool has_chunk = threadIdx.x < chunks;
    const int64_t at = row_begin(blockIdx.x, chunks) + threadIdx.x;
    const ChunkScore mine = has_chunk ? scores[at] : ChunkScore{0.0, -INFINITY, 0};
    const float max = block_max(mine.max, max_room);
    const double part = mine.sum > 0.0 ? mine.sum * exp(static_cast<double>(mine.max) - max) : 0.0;
    const double sum = block_sum(part, sum_room);
    const uint32_t greater = block_sum(mine.greater, count_room);
    const double normalizer = sum > 0.0 ? max + log(sum) : -INFINITY;
    TokenScore& to = out[place_of(row, blockIdx.x)];
    if (threadIdx.x == 0) {
        const uint32_t token = token_of(row, sampled, blockIdx.x);
        to.logprob = logprob_of(token < vocab ? from[token] : NAN, normalizer);
        to.rank = 1 + greater;
    }
    // Each thread stands at the likeliest of its chunk that was not taken.
    const uint32_t num = min(row.num_logprobs, static_cast<uint32_t>(MAX_TOP));
    uint32_t taken = 0;
    uint64_t head = has_chunk && num != 0 ? tops[at * MAX_TOP] : LAST;
    for (uint32_t n = 0; n < num; n++) {
        const uint64_t least = block_min(head, rank_rooms[n % 2]);
        if (threadIdx.x == 0) {
            const uint32_t id = least == LAST ? NONE : static_cast<uint32_t>(least);
            to.ids[n] = id;
            to.logprobs[n] = id == NONE ? -INFINITY : logprob_of(from[id], normalizer);
        }
        if (head != least || head == LAST) continue;
        taken++;
        head = taken < num ? tops[at * MAX_TOP + taken] : LAST;
    }
}
SCONCE_KERNEL(merge_scores)
