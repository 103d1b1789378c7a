// The last kernel of sampling: one block per row finds the cut of top-k and top-p by search, and draws from
// what is left. `sample.cu` tells the whole.
#include "draw.cuh"

// Keys that a search tries at once.
constexpr int PROBES = 3;

struct Rooms {
    double sums[PROBES * WARP];
    uint32_t counts[PROBES * WARP];
    PickRoom pick;
    double masses[MAX_CHUNKS];
    uint32_t ties[MAX_CHUNKS];
};

// `block_sum` of several.
template <class T> __device__ __forceinline__ void block_sums(T (&x)[PROBES], T* room) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
#pragma unroll
    for (int i = 0; i < PROBES; i++) {
        x[i] = warp_sum(x[i]);
        if (lane == 0) room[i * WARP + warp] = x[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < PROBES; i++) x[i] = warp_sum(lane < warps ? room[i * WARP + lane] : T(0));
    __syncthreads();
}

// The greatest key at and above which there is what is wanted, and what there is above it.
template <class T> struct Cut {
    uint32_t key;
    T above;
};

// `low` has what is wanted at and above it, `high` nothing. `measure` replaces keys by what there is at and
// above them.
template <class T, class Measure>
__device__ __forceinline__ Cut<T> search(uint32_t low, uint32_t high, T wanted, Measure measure) {
    T above = 0;
    while (high - low > 1) {
        uint32_t keys[PROBES];
        T there[PROBES];
#pragma unroll
        for (int i = 0; i < PROBES; i++) {
            keys[i] = low + static_cast<uint32_t>(static_cast<uint64_t>(high - low) * (i + 1) / (PROBES + 1));
        }
        measure(keys, there);
        const uint32_t known = low;
#pragma unroll
        for (int i = 0; i < PROBES; i++) {
            if (keys[i] == known) continue;
            if (there[i] >= wanted) {
                low = keys[i];
            } else if (keys[i] < high) {
                high = keys[i];
                above = there[i];
            }
        }
    }
    return {low, above};
}

// What top-k and top-p leave: all above a key, and of those equal to it so many of the lowest ids.
struct Kept {
    uint32_t key, ties;
};

// The tokens of one chunk of a row, of which `rank` that are equal to the cut came before.
__device__ __forceinline__ uint32_t draw_in_chunk(const float* row, uint32_t vocab, const Weights& weights,
                                                  Kept kept, uint32_t rank, uint32_t chunk, double rest,
                                                  Rooms& rooms) {
    constexpr int N = CHUNK / CHOOSE_THREADS;
    const uint32_t first = chunk * CHUNK + threadIdx.x * N;
    uint32_t keys[N], ties = 0;
    float each[N];
#pragma unroll
    for (int i = 0; i < N; i++) {
        const float x = first + i < vocab ? row[first + i] : -INFINITY;
        keys[i] = weights.keeps(x) ? ascending(fminf(x, FLT_MAX)) : 0;
        each[i] = keys[i] != 0 && keys[i] >= kept.key ? weights.of(x) : 0.0f;
        ties += keys[i] == kept.key;
    }
    rank += block_scan(ties, rooms.counts).before;
    double sum = 0.0;
#pragma unroll
    for (int i = 0; i < N; i++) {
        if (keys[i] == kept.key && rank++ >= kept.ties) each[i] = 0.0f;
        sum += each[i];
    }
    const auto running = block_scan(sum, rooms.sums);
    return chunk * CHUNK + pick(each, running, rest, rooms.pick).at;
}

// Of `masses` of chunks, two per thread.
__device__ __forceinline__ Picked pick_chunk(const double (&masses)[2], double uniform, Rooms& rooms) {
    const auto running = block_scan(masses[0] + masses[1], rooms.sums);
    return pick(masses, running, uniform * running.total, rooms.pick);
}

// The row itself, as what is searched: every probe reads all of it.
struct Whole {
    const float* row;
    uint32_t vocab, chunks;
    const Weights& weights;
    Rooms& rooms;

    template <class F> __device__ __forceinline__ void each_kept(uint32_t least, F f) const {
#pragma unroll 4
        for (uint32_t id = threadIdx.x; id < vocab; id += CHOOSE_THREADS) {
            const float x = row[id];
            if (!weights.keeps(x)) continue;
            const uint32_t key = ascending(fminf(x, FLT_MAX));
            if (key >= least) f(key, x);
        }
    }

    __device__ __forceinline__ void count(const uint32_t (&keys)[PROBES], uint32_t (&there)[PROBES]) const {
        for (int i = 0; i < PROBES; i++) there[i] = 0;
        each_kept(keys[0], [&](uint32_t key, float) {
            for (int i = 0; i < PROBES; i++) there[i] += key >= keys[i];
        });
        block_sums(there, rooms.counts);
    }

    __device__ __forceinline__ void mass(const uint32_t (&keys)[PROBES], double (&there)[PROBES]) const {
        for (int i = 0; i < PROBES; i++) there[i] = 0.0;
        each_kept(keys[0], [&](uint32_t key, float x) {
            const float weight = weights.of(x);
            for (int i = 0; i < PROBES; i++) there[i] += key >= keys[i] ? weight : 0.0f;
        });
        block_sums(there, rooms.sums);
    }

    __device__ __forceinline__ uint32_t draw(Kept kept, double uniform) {
        measure_chunks(kept.key);
        const uint32_t first = threadIdx.x * 2;
        uint32_t ties[2] = {};
        double masses[2] = {};
        for (int i = 0; i < 2; i++) {
            if (first + i >= chunks) continue;
            ties[i] = rooms.ties[first + i];
            masses[i] = rooms.masses[first + i];
        }
        uint32_t rank = block_scan(ties[0] + ties[1], rooms.counts).before;
        const float weight = weights.of(of_ascending(kept.key));
        for (int i = 0; i < 2; i++) {
            masses[i] += static_cast<double>(weight) * min(ties[i], kept.ties - min(kept.ties, rank));
            if (first + i < chunks) rooms.ties[first + i] = rank;
            rank += ties[i];
        }
        const Picked picked = pick_chunk(masses, uniform, rooms);
        return draw_in_chunk(row, vocab, weights, kept, rooms.ties[picked.at], picked.at, picked.rest, rooms);
    }

  private:
    // Each chunk's mass above the cut, and its tokens at it.
    __device__ __forceinline__ void measure_chunks(uint32_t cut) const {
        const uint32_t lane = threadIdx.x % WARP;
        for (uint32_t chunk = threadIdx.x / WARP; chunk < chunks; chunk += CHOOSE_THREADS / WARP) {
            double mass = 0.0;
            uint32_t ties = 0;
#pragma unroll 4
            for (uint32_t i = lane; i < CHUNK; i += WARP) {
                const uint32_t id = chunk * CHUNK + i;
                const float x = id < vocab ? row[id] : -INFINITY;
                if (!weights.keeps(x)) continue;
                const uint32_t key = ascending(fminf(x, FLT_MAX));
                if (key > cut) mass += weights.of(x);
                ties += key == cut;
            }
            mass = warp_sum(mass);
            ties = warp_sum(ties);
            if (lane == 0) rooms.masses[chunk] = mass, rooms.ties[chunk] = ties;
        }
        __syncthreads();
    }
};

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

// Cuts and draws. `cutoff`: no token of the source is below it.
template <class Source>
__device__ __forceinline__ uint32_t choose(Source& source, const SampleRow& row, const Weights& weights,
                                           const Plan& plan, float cutoff) {
    const uint32_t high = ascending(weights.max) + 1;
    Kept kept{ascending(cutoff), NONE};
    double total = plan.mass;
    const auto weight_of_cut = [&] { return static_cast<double>(weights.of(of_ascending(kept.key))); };
    const auto mass = [&](const uint32_t(&keys)[PROBES], double(&there)[PROBES]) { source.mass(keys, there); };
    if (row.top_k != 0 && row.top_k < plan.num) {
        const auto count = [&](const uint32_t(&keys)[PROBES], uint32_t(&there)[PROBES]) {
            source.count(keys, there);
        };
        const auto cut = search<uint32_t>(kept.key, high, row.top_k, count);
        kept = {cut.key, row.top_k - cut.above};
        if (row.top_p < 1.0f) {
            const uint32_t above[PROBES] = {kept.key + 1, high, high};
            double there[PROBES];
            mass(above, there);
            total = there[0] + kept.ties * weight_of_cut();
        }
    }
    if (row.top_p < 1.0f) {
        const double wanted = total * row.top_p;
        const auto cut = search<double>(kept.key, high, wanted, mass);
        if (cut.key != kept.key) kept = {cut.key, NONE};
        // So many of equal ones reach what is wanted; nothing that weighs nothing does.
        const double ties = ceil((wanted - cut.above) / weight_of_cut());
        if (ties < kept.ties) kept.ties = static_cast<uint32_t>(fmax(ties, 1.0));
    }
    return source.draw(kept, uniform(row));
}

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

// Which kernels ran before.
constexpr uint32_t WITH_DRAWS = 1, WITH_FILTERS = 2;

// One block per row. sampled: [gridDim.x], NONE where a row is idle, has nothing left, or needs a stage that
// was not launched. The rest as `gather_likely` has it, with `chunks` for gridDim.x. counts: [slots,
// counts_width]
extern "C" __global__ void __launch_bounds__(CHOOSE_THREADS)
    choose_tokens(const SampleRow* rows, const float* logits, const float* adjusted, const Best* bests,
                  const Weighed* weighed, const Plan* plans, const uint32_t* ids, const float* likely,
                  uint16_t* counts, uint32_t* sampled, uint32_t vocab, uint32_t chunks,
                  uint32_t counts_width, uint32_t stages) {
    __shared__ Rooms rooms;
    wait_for_dependencies();
    const SampleRow row = rows[blockIdx.x];
    Best best{-INFINITY, NONE};
    const int64_t begin = row_begin(blockIdx.x, chunks);
    if (row.flags & ACTIVE) best = row_best(bests + begin, chunks);
    uint32_t token = best.id;
    if (token != NONE && draws(row)) {
        const float* from = row.flags & ADJUSTED ? adjusted + row_begin(blockIdx.x, vocab)
                                                 : logits + row_begin(row.logits_row, vocab);
        const Weights weights(row, best.logit);
        Whole whole{from, vocab, chunks, weights, rooms};
        const bool is_planned = filters(row) && stages >= WITH_FILTERS;
        const Plan plan = is_planned ? plans[blockIdx.x] : Plan{};
        const bool cuts = row.top_p < 1.0f || (row.top_k != 0 && row.top_k < plan.num);
        if (stages < (filters(row) ? WITH_FILTERS : WITH_DRAWS) || !weights.keeps(best.logit)) {
            token = NONE;
        } else if (!cuts) {
            token = draw_unfiltered(weighed + begin, chunks, whole, row);
        } else if (plan.gathered > MAX_GATHERED) {
            token = choose(whole, row, weights, plan, weights.minimum);
        } else {
            const int64_t list = row_begin(blockIdx.x, MAX_GATHERED);
            Gathered gathered(ids + list, likely + list, plan.gathered, weights, rooms);
            token = choose(gathered, row, weights, plan, plan.least(weights));
        }
    }
    if (threadIdx.x != 0) return;
    sampled[blockIdx.x] = token;
    if (token < vocab && row.flags & COUNTED) {
        uint16_t& count = counts[row_begin(row.counts_slot, counts_width) + token];
        if ((count & 0x7fffu) != 0x7fffu) count++;
    }
}
SCONCE_KERNEL(choose_tokens)
