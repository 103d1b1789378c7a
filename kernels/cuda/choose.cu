// The last kernel of sampling for most rows: one block per row finds the cut of top-k and top-p, and draws from
// what is left. `sample.cu` tells the whole.
#include "cut.cuh"

// The tokens that were gathered, `EACH` consecutive ones per thread, as what is searched.
struct Gathered {
    const uint32_t* ids;
    Rooms& rooms;
    uint32_t keys[EACH];
    float weights[EACH];

    __device__ __forceinline__ Gathered(const uint32_t* ids, const float* likely, uint32_t num,
                                        const Weights& weigh, Rooms& rooms)
        : ids(ids), rooms(rooms) {
#pragma unroll
        for (int i = 0; i < EACH; i += 4) {
            const auto x = load_pack<float, 4>(likely + threadIdx.x * EACH + i);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const bool is_there = threadIdx.x * EACH + i + j < num;
                // No number has the key 0.
                keys[i + j] = is_there ? ascending(fminf(x.at[j], FLT_MAX)) : 0;
                weights[i + j] = is_there ? weigh.of(x.at[j]) : 0.0f;
            }
        }
    }

    __device__ __forceinline__ void count(const uint32_t (&probes)[PROBES],
                                          uint32_t (&there)[PROBES]) const {
#pragma unroll
        for (int i = 0; i < PROBES; i++) {
            there[i] = 0;
#pragma unroll
            for (int e = 0; e < EACH; e++) there[i] += keys[e] >= probes[i];
        }
        block_sums(there, rooms.counts);
    }

    __device__ __forceinline__ void mass(const uint32_t (&probes)[PROBES], double (&there)[PROBES]) const {
#pragma unroll
        for (int i = 0; i < PROBES; i++) {
            there[i] = 0.0;
#pragma unroll
            for (int e = 0; e < EACH; e++) there[i] += keys[e] >= probes[i] ? weights[e] : 0.0f;
        }
        block_sums(there, rooms.sums);
    }

    __device__ __forceinline__ uint32_t draw(Kept kept, double uniform) {
        uint32_t ties = 0;
#pragma unroll
        for (int e = 0; e < EACH; e++) ties += keys[e] == kept.key;
        uint32_t rank = block_scan(ties, rooms.counts).before;
        double sum = 0.0;
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            if (keys[e] < kept.key || (keys[e] == kept.key && rank++ >= kept.ties)) weights[e] = 0.0f;
            sum += weights[e];
        }
        const auto running = block_scan(sum, rooms.sums);
        return ids[pick(weights, running, uniform * running.total, rooms.pick).at];
    }
};

// Draws from all that min-p left.
__device__ __forceinline__ uint32_t draw_unfiltered(const Weighed* weighed, uint32_t chunks, Whole& whole,
                                                    const SampleRow& row) {
    double masses[2];
    for (int i = 0; i < 2; i++) {
        const uint32_t chunk = threadIdx.x * 2 + i;
        masses[i] = chunk < chunks ? weighed[chunk].mass : 0.0;
    }
    const Picked picked = pick_chunk(masses, uniform(row), whole.rooms);
    return draw_in_chunk(whole.row, whole.vocab, whole.weights, {0, NONE}, 0, picked.at, picked.rest,
                         whole.rooms);
}

// One block per row. sampled: [num_sampled], NONE where a row is idle, has nothing left, or needs a stage that
// was not launched. The rest as `gather_likely` has it, with `chunks` for gridDim.x, and as `adjust_logits` has
// it.
extern "C" __global__ void __launch_bounds__(CHOOSE_THREADS)
    choose_tokens(const SampleRow* rows, const float* logits, const float* adjusted, const Best* bests,
                  const Weighed* weighed, const Plan* plans, const uint32_t* ids, const float* likely,
                  const Masked* masked, const uint32_t* allowed, const uint32_t* inputs, uint16_t* counts,
                  uint32_t* sampled, uint32_t vocab, uint32_t chunks, uint32_t counts_width,
                  uint32_t logits_rows, uint32_t num_biases, uint32_t num_masked, uint32_t allowed_rows,
                  uint32_t slots, uint32_t num_inputs, uint32_t num_sampled, uint32_t stages) {
    __shared__ Rooms rooms;
    wait_for_dependencies();
    const SampleRow row = rows[blockIdx.x];
    const Lists lists{masked,     allowed,      inputs, logits_rows, num_biases,
                      num_masked, allowed_rows, slots,  num_inputs};
    const bool is_sound = row.flags & ACTIVE && lists.hold(row);
    const int64_t begin = row_begin(blockIdx.x, chunks);
    const Best best = is_sound ? row_best(bests + begin, chunks) : Best{-INFINITY, NONE};
    const uint32_t needed = !draws(row)          ? 0
                            : row.typical_p < 1.0f ? WITH_TYPICAL
                            : filters(row)         ? WITH_FILTERS
                                                   : WITH_DRAWS;
    const bool may_fall_back = is_sound && row.flags & FALLS_BACK && stages >= needed;
    uint32_t token = best.id;
    if (token != NONE && draws(row)) {
        const float* from = row.flags & ADJUSTED ? adjusted + row_begin(blockIdx.x, vocab)
                                                 : logits + row_begin(row.logits_row, vocab);
        const Weights weights(row, best.logit);
        Whole whole{from, vocab, chunks, weights, rooms};
        const bool is_planned = filters(row) && stages >= WITH_FILTERS;
        const Plan plan = is_planned ? plans[blockIdx.x] : Plan{};
        const bool cuts = row.top_p < 1.0f || (row.top_k != 0 && row.top_k < plan.num);
        if (stages < needed || !weights.keeps(best.logit)) {
            token = NONE;
        } else if (needed == WITH_TYPICAL) {
            // The next kernel's.
            return;
        } else if (!cuts) {
            token = draw_unfiltered(weighed + begin, chunks, whole, row);
        } else if (plan.gathered > MAX_GATHERED) {
            token = whole.draw(cut_of(whole, row, weights, plan, weights.minimum), uniform(row));
        } else {
            const int64_t list = row_begin(blockIdx.x, MAX_GATHERED);
            Gathered gathered(ids + list, likely + list, plan.gathered, weights, rooms);
            token = gathered.draw(cut_of(gathered, row, weights, plan, plan.least(weights)), uniform(row));
        }
    }
    if (token == NONE && may_fall_back) {
        token = last_resort(row, logits + row_begin(row.logits_row, vocab), lists, vocab, rooms);
    }
    settle(row, token, sampled, num_sampled, counts, counts_width, vocab);
}
SCONCE_KERNEL(choose_tokens)
