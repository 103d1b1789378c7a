// Draws for rows with typical-p (Meister et al., 2022): after top-k and top-p, the tokens whose surprise is
// nearest to the entropy, until they have so much mass. Few requests ask for it, so each row's block reads the
// whole row as often as it searches, and nothing is gathered.
#include "cut.cuh"

// Tokens that are kept: by a key, greater ones first, and of those equal to the cut's those with ids below `end`.
struct Range {
    uint32_t key, end;

    __device__ __forceinline__ bool has(uint32_t of, uint32_t id) const {
        return of > key || (of == key && id < end);
    }
};

// A row, what top-k and top-p keep of it, and what says how typical a token is.
struct Typical {
    const Whole& whole;
    Range likely;
    double log_total, entropy;

    __device__ __forceinline__ float weight(uint32_t id) const {
        const float x = whole.row[id];
        if (!whole.weights.keeps(x) || !likely.has(ascending(fminf(x, FLT_MAX)), id)) return 0.0f;
        return whole.weights.of(x);
    }

    // Sorts the most typical last. 0 for what is not kept, or weighs nothing.
    __device__ __forceinline__ uint32_t key(float weight) const {
        if (!(weight > 0.0f)) return 0;
        const double surprise = log_total - log(static_cast<double>(weight));
        return ~ascending(static_cast<float>(fabs(surprise - entropy)));
    }
};

// The id behind the token with which the running sum of `weigh`, in the order of ids, has passed `point`, or at
// least reached it where `reaches`. NONE where it never does.
template <class Weigh>
__device__ __forceinline__ uint32_t end_of(uint32_t vocab, double point, bool reaches, Weigh weigh,
                                           Rooms& rooms) {
    double before = 0.0;
    for (uint32_t base = 0; base < vocab; base += CHOOSE_THREADS) {
        const uint32_t id = base + threadIdx.x;
        const double weight = id < vocab ? weigh(id) : 0.0;
        if (threadIdx.x == 0) rooms.pick.first = NONE;
        const auto running = block_scan(weight, rooms.sums);
        const double after = before + running.after;
        if (weight > 0.0 && (reaches ? after >= point : after > point)) atomicMin(&rooms.pick.first, id + 1);
        before += running.total;
        __syncthreads();
        const uint32_t end = rooms.pick.first;
        __syncthreads();
        if (end != NONE) return end;
    }
    return NONE;
}

template <class F> __device__ __forceinline__ double sum_of(uint32_t vocab, F f, Rooms& rooms) {
    double sum = 0.0;
    for (uint32_t id = threadIdx.x; id < vocab; id += CHOOSE_THREADS) sum += f(id);
    return block_sum(sum, rooms.sums);
}

// Of `typical.likely`, the most typical tokens that have `wanted` mass together.
__device__ __forceinline__ Range most_typical(const Typical& typical, double wanted, Rooms& rooms) {
    const uint32_t vocab = typical.whole.vocab;
    const auto mass = [&](const uint32_t(&keys)[PROBES], double(&there)[PROBES]) {
        for (int i = 0; i < PROBES; i++) there[i] = 0.0;
        for (uint32_t id = threadIdx.x; id < vocab; id += CHOOSE_THREADS) {
            const float weight = typical.weight(id);
            const uint32_t key = typical.key(weight);
            for (int i = 0; i < PROBES; i++) there[i] += key >= keys[i] ? weight : 0.0f;
        }
        block_sums(there, rooms.sums);
    };
    const auto cut = search<double>(1, ~ascending(0.0f) + 1, wanted, mass);
    const auto of_cut = [&](uint32_t id) {
        const float weight = typical.weight(id);
        return typical.key(weight) == cut.key ? static_cast<double>(weight) : 0.0;
    };
    return {cut.key, end_of(vocab, wanted - cut.above, true, of_cut, rooms)};
}

__device__ __forceinline__ uint32_t draw_typical(const SampleRow& row, Whole& whole, const Plan& plan,
                                                 Rooms& rooms) {
    const uint32_t vocab = whole.vocab;
    const Kept kept = cut_of(whole, row, whole.weights, plan, whole.weights.minimum);
    Typical typical{whole, {kept.key, NONE}, 0.0, 0.0};
    if (kept.ties != NONE) {
        const auto is_tie = [&](uint32_t id) {
            const float x = whole.row[id];
            return whole.weights.keeps(x) && ascending(fminf(x, FLT_MAX)) == kept.key ? 1.0 : 0.0;
        };
        typical.likely.end = end_of(vocab, kept.ties, true, is_tie, rooms);
    }
    const double total = sum_of(vocab, [&](uint32_t id) { return typical.weight(id); }, rooms);
    typical.log_total = log(total);
    const auto surprise = [&](uint32_t id) {
        const double weight = typical.weight(id);
        return weight > 0.0 ? weight / total * (typical.log_total - log(weight)) : 0.0;
    };
    typical.entropy = sum_of(vocab, surprise, rooms);
    // At least one token, whatever is asked for.
    const Range range = most_typical(typical, fmax(total * row.typical_p, DBL_MIN), rooms);
    const auto drawn = [&](uint32_t id) -> double {
        const float weight = typical.weight(id);
        return range.has(typical.key(weight), id) ? weight : 0.0f;
    };
    const double mass = sum_of(vocab, drawn, rooms);
    uint32_t end = end_of(vocab, uniform(row) * mass, false, drawn, rooms);
    if (end == NONE) {
        // Rounding has left the point behind all of them: the last one.
        if (threadIdx.x == 0) rooms.pick.last = 0;
        __syncthreads();
        for (uint32_t id = threadIdx.x; id < vocab; id += CHOOSE_THREADS) {
            if (drawn(id) > 0.0) atomicMax(&rooms.pick.last, id + 1);
        }
        __syncthreads();
        end = rooms.pick.last;
    }
    return end - 1;
}

// One block per row, after `choose_tokens`, which has the others and those of which nothing is left.
extern "C" __global__ void __launch_bounds__(CHOOSE_THREADS)
    choose_typical(const SampleRow* rows, const float* logits, const float* adjusted, const Best* bests,
                   const Plan* plans, uint16_t* counts, uint32_t* sampled, uint32_t vocab, uint32_t chunks,
                   uint32_t counts_width, uint32_t num_sampled) {
    __shared__ Rooms rooms;
    wait_for_dependencies();
    const SampleRow row = rows[blockIdx.x];
    if (!draws(row) || !(row.typical_p < 1.0f)) return;
    const Best best = row_best(bests + row_begin(blockIdx.x, chunks), chunks);
    if (best.id == NONE) return;
    const Weights weights(row, best.logit);
    if (!weights.keeps(best.logit)) return;
    const float* from = row.flags & ADJUSTED ? adjusted + row_begin(blockIdx.x, vocab)
                                             : logits + row_begin(row.logits_row, vocab);
    Whole whole{from, vocab, chunks, weights, rooms};
    const uint32_t token = draw_typical(row, whole, plans[blockIdx.x], rooms);
    settle(row, token, sampled, num_sampled, counts, counts_width, vocab);
}
SCONCE_KERNEL(choose_typical)
