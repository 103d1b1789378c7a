// Where top-k and top-p cut a row, found by search on the integers that sort as logits do, and the draw from
// what is left; and what is taken where nothing is.
#pragma once

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

// Where top-k and top-p cut. `cutoff`: no token of the source is below it.
template <class Source>
__device__ __forceinline__ Kept cut_of(Source& source, const SampleRow& row, const Weights& weights,
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
    return kept;
}

// The likeliest token that is allowed of the model's own logits, or the first that is allowed: what is taken
// where adjustments leave nothing. End tokens may come again. NONE where bad words and the allowed tokens leave
// none. All threads of the block get it.
__device__ __forceinline__ uint32_t last_resort(const SampleRow& row, const float* logits, const Lists& lists,
                                                uint32_t vocab, Rooms& rooms) {
    const uint32_t last = lists.last(row);
    const uint32_t* bits = lists.allowed + row_begin(row.allowed_row, (vocab + 31) / 32);
    const auto may = [&](uint32_t id) {
        if (row.allowed_row != NONE && !(bits[id / 32] >> id % 32 & 1)) return false;
        for (uint32_t i = row.num_ends; i < row.num_masked; i++) {
            const Masked masked = lists.masked[row.first_masked + i];
            if (masked.token == id && (masked.after == NONE || masked.after == last)) return false;
        }
        return true;
    };
    Best best{-INFINITY, NONE};
    uint32_t first = NONE;
    for (uint32_t id = threadIdx.x; id < vocab; id += CHOOSE_THREADS) {
        if (!may(id)) continue;
        first = min(first, id);
        if (logits[id] > best.logit) best = {logits[id], id};
    }
    best = warp_best(best);
    const uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    if (lane == 0) rooms.sums[warp] = best.logit, rooms.counts[warp] = best.id;
    if (threadIdx.x == 0) rooms.pick.first = NONE;
    __syncthreads();
    if (first != NONE) atomicMin(&rooms.pick.first, first);
    best = {-INFINITY, NONE};
    for (int w = 0; w < CHOOSE_THREADS / WARP; w++) {
        best = better(best, {static_cast<float>(rooms.sums[w]), rooms.counts[w]});
    }
    __syncthreads();
    return best.id != NONE ? best.id : rooms.pick.first;
}

// Writes a row's token and counts it.
__device__ __forceinline__ void settle(const SampleRow& row, uint32_t token, uint32_t* sampled,
                                       uint32_t num_sampled, uint16_t* counts, uint32_t counts_width,
                                       uint32_t vocab) {
    if (threadIdx.x != 0) return;
    const uint32_t place = place_of(row, blockIdx.x);
    if (place >= num_sampled) return;
    sampled[place] = token;
    if (token < vocab && row.flags & COUNTED) {
        uint16_t& count = counts[row_begin(row.counts_slot, counts_width) + token];
        if ((count & 0x7fffu) != 0x7fffu) count++;
    }
}

// Which kernels ran before, or will.
constexpr uint32_t WITH_DRAWS = 1, WITH_FILTERS = 2, WITH_TYPICAL = 3;
