// Where a random number lies in the running sums of a block's weights.
#pragma once

#include "sampling.cuh"

// Philox4x32-10 (Salmon et al., 2011): a number in [0, 1) of 53 bits that is a pure function of the
// request's seed, the completion's index and the token's position.
__device__ __forceinline__ double uniform(const SampleRow& row) {
    uint32_t counter[4] = {row.position, row.index, 0, 0}, key[2] = {row.seed_low, row.seed_high};
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const uint32_t high0 = __umulhi(0xd2511f53u, counter[0]), low0 = 0xd2511f53u * counter[0];
        const uint32_t high1 = __umulhi(0xcd9e8d57u, counter[2]), low1 = 0xcd9e8d57u * counter[2];
        counter[0] = high1 ^ counter[1] ^ key[0];
        counter[1] = low1;
        counter[2] = high0 ^ counter[3] ^ key[1];
        counter[3] = low0;
        key[0] += 0x9e3779b9u;
        key[1] += 0xbb67ae85u;
    }
    const uint64_t bits = (static_cast<uint64_t>(counter[0]) << 32 | counter[1]) >> 11;
    return static_cast<double>(bits) * (1.0 / 9007199254740992.0);
}

// The sum over the threads before this one, and with it, and over all.
template <class T> struct Running {
    T before, after, total;
};

// `room` has 32 elements.
template <class T> __device__ __forceinline__ Running<T> block_scan(T x, T* room) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    T after = x;
    for (int offset = 1; offset < WARP; offset *= 2) {
        const T other = __shfl_up_sync(FULL_WARP, after, offset);
        if (lane >= offset) after += other;
    }
    T before = __shfl_up_sync(FULL_WARP, after, 1);
    if (lane == 0) before = 0;
    if (lane == WARP - 1) room[warp] = after;
    __syncthreads();
    T base = 0, total = 0;
    for (int w = 0; w < warps; w++) {
        if (w == warp) base = total;
        total += room[w];
    }
    __syncthreads();
    return {base + before, base + after, total};
}

// What the threads that look for a point tell each other.
struct PickRoom {
    uint32_t first, last, at;
    double rest;
};

// An element of the block's, and how far behind its beginning the point lies.
struct Picked {
    uint32_t at;
    double rest;
};

// Finds the element of `E` consecutive ones per thread in which `point` lies, and where rounding has left it
// behind all of them, the last that weighs anything. One must. `running` are the threads' sums.
template <int E, class T>
__device__ __forceinline__ Picked pick(const T (&weights)[E], const Running<double>& running, double point,
                                       PickRoom& room) {
    if (threadIdx.x == 0) room.first = NONE, room.last = 0;
    bool weighs = false;
#pragma unroll
    for (int e = 0; e < E; e++) weighs |= weights[e] > T(0);
    __syncthreads();
    // Sums of neighbors are rounded differently, so the point may seem to be in two: the first has it.
    const uint32_t having = __ballot_sync(FULL_WARP, weighs && point < running.after);
    const uint32_t weighing = __ballot_sync(FULL_WARP, weighs);
    if (threadIdx.x % WARP == 0) {
        if (having != 0) atomicMin(&room.first, threadIdx.x + __ffs(having) - 1);
        if (weighing != 0) atomicMax(&room.last, threadIdx.x + WARP - 1 - __clz(weighing));
    }
    __syncthreads();
    if (threadIdx.x == (room.first != NONE ? room.first : room.last)) {
        double rest = fmax(point - running.before, 0.0);
        bool found = false;
#pragma unroll
        for (int e = 0; e < E; e++) {
            if (found || !(weights[e] > T(0))) continue;
            room.at = threadIdx.x * E + e;
            room.rest = rest;
            found = rest < weights[e];
            rest -= weights[e];
        }
    }
    __syncthreads();
    const Picked picked{room.at, room.rest};
    __syncthreads();
    return picked;
}
