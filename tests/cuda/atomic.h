// CUDA's atomic functions. Blocks run on several OS threads, so these are the host's atomics.
#pragma once

namespace stand_in {

template <class T> using Bits = std::conditional_t<sizeof(T) == 8, uint64_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>>;

// Sets `*at` to `next` of what was there, which it returns.
template <class T, class Next> T atomic_update(T* at, Next next) {
    auto* bits = reinterpret_cast<Bits<T>*>(at);
    Bits<T> seen = __atomic_load_n(bits, __ATOMIC_SEQ_CST);
    for (;;) {
        T old, wanted;
        memcpy(&old, &seen, sizeof(T));
        wanted = next(old);
        Bits<T> to;
        memcpy(&to, &wanted, sizeof(T));
        if (__atomic_compare_exchange_n(bits, &seen, to, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) return old;
    }
}

template <class T, class... Allowed> constexpr bool ONE_OF = (std::is_same_v<T, Allowed> || ...);
using Long = long long;
using ULong = unsigned long long;

} // namespace stand_in

#define STAND_IN_ATOMIC(name, expression, ...)                                                     \
    template <class T> T name(T* at, std::type_identity_t<T> value) {                              \
        static_assert(stand_in::ONE_OF<T, __VA_ARGS__>, "CUDA has no " #name " of this type");     \
        return stand_in::atomic_update(at, [value](T old) -> T { return expression; });            \
    }
STAND_IN_ATOMIC(atomicAdd, old + value, int, unsigned, stand_in::ULong, float, double, __half, __half2,
                __nv_bfloat16, __nv_bfloat162)
STAND_IN_ATOMIC(atomicSub, old - value, int, unsigned)
STAND_IN_ATOMIC(atomicMin, (value < old ? value : old), int, unsigned, stand_in::Long, stand_in::ULong)
STAND_IN_ATOMIC(atomicMax, (old < value ? value : old), int, unsigned, stand_in::Long, stand_in::ULong)
STAND_IN_ATOMIC(atomicExch, (static_cast<void>(old), value), int, unsigned, stand_in::ULong, float)
STAND_IN_ATOMIC(atomicAnd, old & value, int, unsigned, stand_in::ULong)
STAND_IN_ATOMIC(atomicOr, old | value, int, unsigned, stand_in::ULong)
STAND_IN_ATOMIC(atomicXor, old ^ value, int, unsigned, stand_in::ULong)
STAND_IN_ATOMIC(atomicInc, (old >= value ? 0 : old + 1), unsigned)
STAND_IN_ATOMIC(atomicDec, (old == 0 || old > value ? value : old - 1), unsigned)
#undef STAND_IN_ATOMIC

template <class T> T atomicCAS(T* at, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
    static_assert(stand_in::ONE_OF<T, int, unsigned, stand_in::ULong, unsigned short>, "CUDA has no atomicCAS of this type");
    __atomic_compare_exchange_n(at, &expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return expected;
}

inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
