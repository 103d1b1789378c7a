// The first pass over the logits: what requests add to them, take from them and forbid, and the likeliest
// token of each chunk of what results. One block per chunk and row.
//
// The order is that of the processor's sampler: biases, penalties, then masks. Adjusted rows are written
// beside the model's own, which log-probabilities are of, and which completions of one prompt share.
#include "sampling.cuh"

// Adds the biases that fall into the chunk. The list is sorted: whoever meets a token first adds all of its
// biases, in their order.
__device__ __forceinline__ void add_biases(const SampleRow& row, const Bias* biases, float (&x)[CHUNK_EACH],
                                           float* tile) {
#pragma unroll
    for (int i = 0; i < CHUNK_EACH; i++) tile[i * CHUNK_THREADS + threadIdx.x] = x[i];
    __syncthreads();
    const Bias* list = biases + row.first_bias;
    for (uint32_t i = threadIdx.x; i < row.num_biases; i += CHUNK_THREADS) {
        const uint32_t token = list[i].token, at = token - chunk_begin();
        if (at >= CHUNK || (i > 0 && list[i - 1].token == token)) continue;
        float logit = tile[at];
        for (uint32_t j = i; j < row.num_biases && list[j].token == token; j++) {
            logit = __fadd_rn(logit, list[j].bias);
        }
        tile[at] = logit;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < CHUNK_EACH; i++) x[i] = tile[i * CHUNK_THREADS + threadIdx.x];
}

// A count's low 15 bits are the token's occurrences in the completion; the highest tells that the prompt
// has it.
__device__ __forceinline__ float penalized(const SampleRow& row, float logit, uint32_t count) {
    if (count == 0) return logit;
    logit = logit > 0.0f ? __fdiv_rn(logit, row.repetition_penalty)
                         : __fmul_rn(logit, row.repetition_penalty);
    count &= 0x7fffu;
    if (count == 0) return logit;
    logit = __fsub_rn(logit, __fmul_rn(row.frequency_penalty, static_cast<float>(count)));
    return __fsub_rn(logit, row.presence_penalty);
}

// A token's count, and the drafts among the row's inputs that are this token: those are counted once they
// are known to be right.
__device__ __forceinline__ uint32_t with_drafts(const SampleRow& row, const Lists& lists, uint32_t token,
                                                uint32_t count) {
    uint32_t more = 0;
    for (uint32_t i = 0; i < row.num_uncounted; i++) more += lists.inputs[row.input - i] == token;
    return (count & 0x8000u) | min((count & 0x7fffu) + more, 0x7fffu);
}

// Sets in `banned` a bit for each of the chunk's tokens that the row's list names.
__device__ __forceinline__ void mark(const SampleRow& row, const Lists& lists, uint32_t* banned) {
    if (threadIdx.x < CHUNK / 32) banned[threadIdx.x] = 0;
    __syncthreads();
    const uint32_t last = lists.last(row);
    for (uint32_t i = threadIdx.x; i < row.num_masked; i += CHUNK_THREADS) {
        const Masked masked = lists.masked[row.first_masked + i];
        const uint32_t at = masked.token - chunk_begin();
        const bool holds = masked.after == NONE || masked.after == last;
        if (at < CHUNK && holds) atomicOr(&banned[at / 32], 1u << at % 32);
    }
    __syncthreads();
}

// rows: [gridDim.y]. logits: [logits_rows, vocab]. adjusted: [gridDim.y, vocab]. allowed: [allowed_rows,
// ceil(vocab / 32)]. inputs: [num_inputs]. counts: [slots, counts_width]. bests: [gridDim.y, gridDim.x]
extern "C" __global__ void __launch_bounds__(CHUNK_THREADS, 6)
    adjust_logits(const SampleRow* rows, const float* logits, float* adjusted, const Bias* biases,
                  const Masked* masked, const uint32_t* allowed, const uint32_t* inputs,
                  const uint16_t* counts, Best* bests, uint32_t vocab, uint32_t counts_width,
                  uint32_t logits_rows, uint32_t num_biases, uint32_t num_masked, uint32_t allowed_rows,
                  uint32_t slots, uint32_t num_inputs) {
    __shared__ float tile[CHUNK];
    __shared__ uint32_t banned[CHUNK / 32];
    __shared__ Best room[CHUNK_THREADS / WARP];
    wait_for_dependencies();
    const SampleRow row = rows[blockIdx.y];
    if (!(row.flags & ACTIVE)) return;
    const int64_t at = row_begin(blockIdx.y, gridDim.x) + blockIdx.x;
    const Lists lists{masked,     allowed,    inputs,       logits_rows, num_biases,
                      num_masked, allowed_rows, slots, num_inputs};
    if (!lists.hold(row)) {
        if (threadIdx.x == 0) bests[at] = {-INFINITY, NONE};
        return;
    }
    const uint32_t first = chunk_begin() + threadIdx.x;
    const float* from = logits + row_begin(row.logits_row, vocab);
    float x[CHUNK_EACH];
#pragma unroll
    for (int i = 0; i < CHUNK_EACH; i++) {
        const uint32_t id = first + i * CHUNK_THREADS;
        x[i] = id < vocab ? from[id] : -INFINITY;
    }
    if (row.flags & ADJUSTED) {
        if (row.num_biases != 0) add_biases(row, biases, x, tile);
        if (row.num_masked != 0) mark(row, lists, banned);
        const uint16_t* counted = counts + row_begin(row.counts_slot, counts_width);
        const uint32_t* bits = allowed + row_begin(row.allowed_row, (vocab + 31) / 32);
        float* to = adjusted + row_begin(blockIdx.y, vocab);
#pragma unroll
        for (int i = 0; i < CHUNK_EACH; i++) {
            const uint32_t id = first + i * CHUNK_THREADS;
            if (id >= vocab) continue;
            if (row.counts_slot != NONE) x[i] = penalized(row, x[i], with_drafts(row, lists, id, counted[id]));
            bool may = row.allowed_row == NONE || bits[id / 32] >> id % 32 & 1;
            if (row.num_masked != 0) may &= !(banned[(id - chunk_begin()) / 32] >> id % 32 & 1);
            if (!may) x[i] = -INFINITY;
            to[id] = x[i];
        }
    }
    Best best{-INFINITY, NONE};
#pragma unroll
    for (int i = 0; i < CHUNK_EACH; i++) {
        // Ids ascend: the first of equal ones stays.
        if (x[i] > best.logit) best = {x[i], first + i * CHUNK_THREADS};
    }
    best = warp_best(best);
    if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = best;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int w = 1; w < CHUNK_THREADS / WARP; w++) best = better(best, room[w]);
    bests[at] = best;
}
SCONCE_KERNEL(adjust_logits)
