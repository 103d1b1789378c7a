// Barriers and what the lanes of a warp do together.
#pragma once

#include "fiber.h"

namespace stand_in {

template <class T> struct Shuffle {
    T value, result;
    unsigned source;
};

template <class T> void complete_shuffle(void* const* lanes, unsigned mask) {
    for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
        auto& to = *static_cast<Shuffle<T>*>(lanes[std::countr_zero(rest)]);
        if (mask >> to.source & 1) {
            to.result = static_cast<const Shuffle<T>*>(lanes[to.source])->value;
        } else {
            memset(&to.result, 0xff, sizeof(T)); // undefined on a device too
        }
    }
}

template <class T>
constexpr bool SHUFFLES = (std::is_arithmetic_v<T> && sizeof(T) <= 8) || std::is_same_v<T, __half> ||
                          std::is_same_v<T, __half2> || std::is_same_v<T, __nv_bfloat16> ||
                          std::is_same_v<T, __nv_bfloat162>;

template <class T> T shuffle(const Collective& collective, unsigned mask, T value, unsigned source) {
    static_assert(SHUFFLES<T>, "CUDA has no shuffle of this type");
    Shuffle<T> mine{value, value, source};
    meet(mask, collective, &mine);
    return mine.result;
}

template <class T> inline constexpr Collective SHUFFLE = {"__shfl_sync", complete_shuffle<T>};
template <class T> inline constexpr Collective SHUFFLE_UP = {"__shfl_up_sync", complete_shuffle<T>};
template <class T> inline constexpr Collective SHUFFLE_DOWN = {"__shfl_down_sync", complete_shuffle<T>};
template <class T> inline constexpr Collective SHUFFLE_XOR = {"__shfl_xor_sync", complete_shuffle<T>};

// A collective whose every lane gives one value, and gets one.
template <class T, class R> struct Exchange {
    T value;
    R result;
};

template <class T, class R> R exchange(const Collective& collective, unsigned mask, T value) {
    Exchange<T, R> mine{value, R()};
    meet(mask, collective, &mine);
    return mine.result;
}

// All lanes get what `fold` makes of two lanes' values at a time.
template <class T, auto fold> void complete_reduce(void* const* lanes, unsigned mask) {
    using Lane = Exchange<T, T>;
    T all = static_cast<Lane*>(lanes[std::countr_zero(mask)])->value;
    for (unsigned rest = mask & (mask - 1); rest != 0; rest &= rest - 1) {
        all = fold(all, static_cast<Lane*>(lanes[std::countr_zero(rest)])->value);
    }
    for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
        static_cast<Lane*>(lanes[std::countr_zero(rest)])->result = all;
    }
}

template <class T> T fold_add(T a, T b) { return a + b; }
template <class T> T fold_min(T a, T b) { return b < a ? b : a; }
template <class T> T fold_max(T a, T b) { return a < b ? b : a; }
template <class T> T fold_and(T a, T b) { return a & b; }
template <class T> T fold_or(T a, T b) { return a | b; }
template <class T> T fold_xor(T a, T b) { return a ^ b; }

template <class T, auto fold> T reduce(const char* name, unsigned mask, T value) {
    static const Collective collective = {name, complete_reduce<T, fold>};
    return exchange<T, T>(collective, mask, value);
}

template <class T> void complete_match(void* const* lanes, unsigned mask) {
    using Lane = Exchange<T, unsigned>;
    for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
        auto& mine = *static_cast<Lane*>(lanes[std::countr_zero(rest)]);
        mine.result = 0;
        for (unsigned others = mask; others != 0; others &= others - 1) {
            const int other = std::countr_zero(others);
            if (static_cast<Lane*>(lanes[other])->value == mine.value) mine.result |= 1u << other;
        }
    }
}

inline void complete_nothing(void* const*, unsigned) {}

inline constexpr Collective SYNC_WARP = {"__syncwarp", complete_nothing};
template <class T> inline constexpr Collective MATCH_ANY = {"__match_any_sync", complete_match<T>};
template <class T> inline constexpr Collective MATCH_ALL = {"__match_all_sync", complete_match<T>};

} // namespace stand_in

inline void __syncthreads() { stand_in::meet_block("__syncthreads", false); }
inline int __syncthreads_count(int predicate) {
    return stand_in::meet_block("__syncthreads_count", predicate != 0);
}
inline int __syncthreads_or(int predicate) {
    return stand_in::meet_block("__syncthreads_or", predicate != 0) != 0;
}
inline int __syncthreads_and(int predicate) {
    return stand_in::meet_block("__syncthreads_and", predicate == 0) == 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffu) { stand_in::meet(mask, stand_in::SYNC_WARP, nullptr); }

template <class T> T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    const unsigned in = static_cast<unsigned>(width) - 1;
    const unsigned from = (stand_in::here.lane & ~in) | (static_cast<unsigned>(source) & in);
    return stand_in::shuffle(stand_in::SHUFFLE<T>, mask, value, from);
}
template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    const unsigned lane = stand_in::here.lane, in = lane & (static_cast<unsigned>(width) - 1);
    return stand_in::shuffle(stand_in::SHUFFLE_UP<T>, mask, value, in < delta ? lane : lane - delta);
}
template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    const unsigned lane = stand_in::here.lane, last = lane | (static_cast<unsigned>(width) - 1);
    return stand_in::shuffle(stand_in::SHUFFLE_DOWN<T>, mask, value, delta > last - lane ? lane : lane + delta);
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32) {
    const unsigned lane = stand_in::here.lane, last = lane | (static_cast<unsigned>(width) - 1);
    const unsigned from = lane ^ (static_cast<unsigned>(with) & 31);
    return stand_in::shuffle(stand_in::SHUFFLE_XOR<T>, mask, value, from > last ? lane : from);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
    static const stand_in::Collective collective = {
        "__ballot_sync", stand_in::complete_reduce<unsigned, stand_in::fold_or<unsigned>>};
    const unsigned bit = predicate != 0 ? 1u << stand_in::here.lane : 0u;
    return stand_in::exchange<unsigned, unsigned>(collective, mask, bit);
}
inline int __any_sync(unsigned mask, int predicate) {
    static const stand_in::Collective collective = {"__any_sync",
                                                    stand_in::complete_reduce<int, stand_in::fold_or<int>>};
    return stand_in::exchange<int, int>(collective, mask, predicate != 0);
}
inline int __all_sync(unsigned mask, int predicate) {
    static const stand_in::Collective collective = {"__all_sync",
                                                    stand_in::complete_reduce<int, stand_in::fold_and<int>>};
    return stand_in::exchange<int, int>(collective, mask, predicate != 0);
}
inline unsigned __activemask() { return stand_in::active_lanes(); }

template <class T> unsigned __match_any_sync(unsigned mask, T value) {
    return stand_in::exchange<T, unsigned>(stand_in::MATCH_ANY<T>, mask, value);
}
template <class T> unsigned __match_all_sync(unsigned mask, T value, int* all) {
    *all = stand_in::exchange<T, unsigned>(stand_in::MATCH_ALL<T>, mask, value) == mask;
    return *all ? mask : 0;
}

#define STAND_IN_REDUCE(name, type, fold)                                                          \
    inline type name(unsigned mask, type value) {                                                  \
        return stand_in::reduce<type, stand_in::fold<type>>(#name, mask, value);                   \
    }
STAND_IN_REDUCE(__reduce_add_sync, int, fold_add)
STAND_IN_REDUCE(__reduce_add_sync, unsigned, fold_add)
STAND_IN_REDUCE(__reduce_min_sync, int, fold_min)
STAND_IN_REDUCE(__reduce_min_sync, unsigned, fold_min)
STAND_IN_REDUCE(__reduce_max_sync, int, fold_max)
STAND_IN_REDUCE(__reduce_max_sync, unsigned, fold_max)
STAND_IN_REDUCE(__reduce_and_sync, unsigned, fold_and)
STAND_IN_REDUCE(__reduce_or_sync, unsigned, fold_or)
STAND_IN_REDUCE(__reduce_xor_sync, unsigned, fold_xor)
#undef STAND_IN_REDUCE
