// What the kernels that sample share: a row's parameters, the exact arithmetic of the processor's sampler,
// and sums over a block that are the same from run to run, and whatever else is in the batch.
//
// A row of logits is worked on in chunks of a fixed size, so that one row keeps many blocks busy and the
// order of its sums depends on the vocabulary alone.
#pragma once

#include <float.h>

#include "prelude.cuh"

// Neither a token nor an index.
constexpr uint32_t NONE = 0xffffffffu;

// Tokens of one block's part of a row, its threads, and the tokens of each.
constexpr int CHUNK = 2048, CHUNK_THREADS = 256, CHUNK_EACH = CHUNK / CHUNK_THREADS;

// Bits of `SampleRow::flags`.
constexpr uint32_t ACTIVE = 1, ADJUSTED = 2, COUNTED = 4, LOGPROBS = 8, GIVEN = 16, FALLS_BACK = 32;

// One token to sample. `kernels/src/cuda/sampling.rs` states what each field means.
struct SampleRow {
    uint32_t flags, logits_row;
    float temperature, min_p_distance;
    uint32_t top_k;
    float top_p, typical_p, repetition_penalty, frequency_penalty, presence_penalty;
    uint32_t counts_slot, seed_low, seed_high, index, position;
    uint32_t first_bias, num_biases, first_masked, num_masked, num_ends, allowed_row;
    uint32_t num_logprobs, token, input, target, num_uncounted, unused[2];
};

struct Bias {
    uint32_t token;
    float bias;
};

// A token that must not be sampled, where the token before is `after`, or whatever it is with NONE.
struct Masked {
    uint32_t token, after;
};

// What rows refer to, and how much there is of it: a row that names more is passed over.
struct Lists {
    const Masked* masked;
    const uint32_t *allowed, *inputs;
    uint32_t logits_rows, biases, num_masked, allowed_rows, slots, num_inputs;

    __device__ __forceinline__ bool hold(const SampleRow& row) const {
        const auto fit = [](uint32_t first, uint32_t num, uint32_t all) {
            return static_cast<uint64_t>(first) + num <= all;
        };
        return row.logits_row < logits_rows && fit(row.first_bias, row.num_biases, biases) &&
               fit(row.first_masked, row.num_masked, num_masked) && row.num_ends <= row.num_masked &&
               (row.allowed_row == NONE || row.allowed_row < allowed_rows) &&
               (row.counts_slot == NONE || row.counts_slot < slots) &&
               (row.num_uncounted == 0 ||
                (row.input < num_inputs && row.num_uncounted <= row.input + 1));
    }

    // The token before that which is sampled.
    __device__ __forceinline__ uint32_t last(const SampleRow& row) const {
        return row.input < num_inputs ? inputs[row.input] : NONE;
    }
};

// A likeliest token: the greatest logit, of equal ones the lowest id.
struct Best {
    float logit;
    uint32_t id;
};

// The first token of a block's chunk.
__device__ __forceinline__ uint32_t chunk_begin() { return blockIdx.x * CHUNK; }

__device__ __forceinline__ int64_t row_begin(uint32_t row, uint32_t width) {
    return static_cast<int64_t>(row) * width;
}

__device__ __forceinline__ const float* logits_of(const SampleRow& row, const float* logits,
                                                  const float* adjusted, uint32_t vocab) {
    return row.flags & ADJUSTED ? adjusted + row_begin(blockIdx.y, vocab)
                                : logits + row_begin(row.logits_row, vocab);
}

__device__ __forceinline__ bool draws(const SampleRow& row) {
    return row.flags & ACTIVE && row.temperature > 0.0f;
}

__device__ __forceinline__ bool filters(const SampleRow& row) {
    return row.top_k != 0 || row.top_p < 1.0f || row.typical_p < 1.0f;
}

// Where among the sampled tokens the token of the grid's row `at` goes.
__device__ __forceinline__ uint32_t place_of(const SampleRow& row, uint32_t at) {
    return row.target == NONE ? at : row.target;
}

__device__ __forceinline__ Best better(Best a, Best b) {
    return b.logit > a.logit || (b.logit == a.logit && b.id < a.id) ? b : a;
}

__device__ __forceinline__ Best warp_best(Best best) {
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        const float logit = __shfl_xor_sync(FULL_WARP, best.logit, offset);
        best = better(best, {logit, __shfl_xor_sync(FULL_WARP, best.id, offset)});
    }
    return best;
}

// Each warp by itself finds the best of a row's chunks.
__device__ __forceinline__ Best row_best(const Best* of_chunks, uint32_t chunks) {
    Best best{-INFINITY, NONE};
    for (uint32_t c = threadIdx.x % WARP; c < chunks; c += WARP) best = better(best, of_chunks[c]);
    return warp_best(best);
}

__device__ __forceinline__ double warp_sum(double x) {
    for (int offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(FULL_WARP, x, offset);
    return x;
}

__device__ __forceinline__ uint32_t warp_sum(uint32_t x) { return __reduce_add_sync(FULL_WARP, x); }

// As `block_sum` of floats. `room` has 32 elements.
template <class T> __device__ __forceinline__ T block_sum(T x, T* room) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    x = warp_sum(x);
    if (lane == 0) room[warp] = x;
    __syncthreads();
    x = warp_sum(lane < warps ? room[lane] : T(0));
    __syncthreads();
    return x;
}

// An integer that sorts as the float does; both zeros are one. NaN must not occur.
__device__ __forceinline__ uint32_t ascending(float x) {
    const uint32_t bits = __float_as_uint(x + 0.0f);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float of_ascending(uint32_t key) {
    return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

// e^x for x <= 0, operation for operation that of the processor's sampler (`vector.rs`): weights that are
// equal bit for bit make the two draw the same tokens. 0 at -87 and below, and for NaN.
__device__ __forceinline__ float exp_of(float x) {
    constexpr float ROUND = 12582912.0f, LN2_HIGH = 0.6933594f, LN2_LOW = -2.1219444e-4f;
    const float clamped = x > -87.0f ? x : -87.0f;
    const float rounded = __fadd_rn(__fmul_rn(clamped, 1.44269504088896340736f), ROUND);
    const float whole = __fsub_rn(rounded, ROUND);
    const float rest = __fsub_rn(__fsub_rn(clamped, __fmul_rn(whole, LN2_HIGH)), __fmul_rn(whole, LN2_LOW));
    constexpr float COEFFICIENTS[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
    float power = 1.0f / 5040;
#pragma unroll
    for (int i = 0; i < 7; i++) power = __fadd_rn(__fmul_rn(power, rest), COEFFICIENTS[i]);
    const float scale = __uint_as_float((__float_as_uint(rounded) + 127u) << 23);
    return x > -87.0f ? __fmul_rn(power, scale) : 0.0f;
}

// A row's unnormalized probabilities: its softmax at the temperature, but for the denominator.
struct Weights {
    float max, minimum, temperature;

    __device__ __forceinline__ Weights(const SampleRow& row, float greatest)
        : max(fminf(greatest, FLT_MAX)), temperature(row.temperature) {
        minimum = fmaxf(__fadd_rn(max, row.min_p_distance), -FLT_MAX);
    }

    // Whether min-p keeps it. Negative infinity and NaN never are.
    __device__ __forceinline__ bool keeps(float logit) const { return logit >= minimum; }

    // How far a logit that is kept is from the greatest, in temperatures: 0 or less. Infinity counts as the
    // greatest number.
    __device__ __forceinline__ float distance(float logit) const {
        const float distance = __fsub_rn(fminf(logit, FLT_MAX), max);
        return temperature == 1.0f ? distance : __fdiv_rn(distance, temperature);
    }

    __device__ __forceinline__ float of(float logit) const { return exp_of(distance(logit)); }
};

// The block that chooses a row's token, and the most chunks that it sees: a vocabulary of two million.
constexpr int CHOOSE_THREADS = 512, MAX_CHUNKS = 2 * CHOOSE_THREADS;

// Most tokens that are gathered: as many as the choosing block holds in registers. Where more are likely,
// which only flat distributions have, it searches in the row itself.
constexpr int EACH = 16, MAX_GATHERED = EACH * CHOOSE_THREADS;

// How far from the likeliest, in temperatures, tokens may be cut off without looking at them again.
constexpr int LEVELS = 8;
__device__ __forceinline__ constexpr float reach_of(int level) {
    return level < 4 ? level + 1 : level == 4 ? 6 : level == 5 ? 8 : level == 6 ? 11 : 16;
}

// What a chunk holds within each level's reach: tokens, and their mass in units of 2^-20, rounded down. Such
// masses only choose a level.
struct Weighed {
    double mass;
    uint32_t num[LEVELS], likely[LEVELS];
    uint32_t all, unused;
};

// How a row with filters is cut.
struct Plan {
    double mass;
    uint32_t num;      // tokens that min-p left
    float reach;       // of the level, infinite where all are needed
    uint32_t gathered; // tokens of the level
    uint32_t before;   // of them, in the chunks before the asking block's

    __device__ __forceinline__ bool has(const Weights& weights, float logit) const {
        if (!weights.keeps(logit)) return false;
        return reach == INFINITY || weights.distance(logit) > -reach;
    }

    // A number that no token of the level is below.
    __device__ __forceinline__ float least(const Weights& weights) const {
        if (reach == INFINITY) return weights.minimum;
        return fmaxf(weights.max - (reach + 1.0f) * weights.temperature, weights.minimum);
    }
};
