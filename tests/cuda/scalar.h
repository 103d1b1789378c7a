// CUDA's functions of one thread: arithmetic, bits, loads with hints. Those that a device computes in fewer
// bits (`__expf`) are the host's exact ones here.
#pragma once

// glibc's headers declare some of these names, so they cannot be functions of ours.
#define __expf(x) expf(x)
#define __exp10f(x) exp10f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __log10f(x) log10f(x)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __tanf(x) tanf(x)
#define __tanhf(x) tanhf(x)
#define __powf(x, y) powf(x, y)
#define __sincosf(x, sine, cosine) sincosf(x, sine, cosine)
#define rsqrtf(x) ::stand_in::rsqrt_of(x)
#define rsqrt(x) ::stand_in::rsqrt_of(x)

namespace stand_in {
inline float rsqrt_of(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt_of(double x) { return 1.0 / sqrt(x); }

template <class To, class From> To saturate(From x) {
    if (x != x) return 0;
    if (x <= static_cast<From>(std::numeric_limits<To>::min())) return std::numeric_limits<To>::min();
    if (x >= static_cast<From>(std::numeric_limits<To>::max())) return std::numeric_limits<To>::max();
    return static_cast<To>(x);
}

// Applies `f` to each byte of two words.
template <class Byte, class F> unsigned each_byte(unsigned a, unsigned b, F f) {
    unsigned result = 0;
    for (int i = 0; i < 32; i += 8) {
        const int x = static_cast<Byte>(a >> i), y = static_cast<Byte>(b >> i);
        result |= (static_cast<unsigned>(f(x, y)) & 0xffu) << i;
    }
    return result;
}

template <class Half, class F> unsigned each_half(unsigned a, unsigned b, F f) {
    unsigned result = 0;
    for (int i = 0; i < 32; i += 16) {
        const int x = static_cast<Half>(a >> i), y = static_cast<Half>(b >> i);
        result |= (static_cast<unsigned>(f(x, y)) & 0xffffu) << i;
    }
    return result;
}
} // namespace stand_in

template <class A, class B>
    requires(std::is_arithmetic_v<A> && std::is_arithmetic_v<B>)
constexpr std::common_type_t<A, B> min(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>) return std::fmin(static_cast<T>(a), static_cast<T>(b));
    return static_cast<T>(b) < static_cast<T>(a) ? static_cast<T>(b) : static_cast<T>(a);
}
template <class A, class B>
    requires(std::is_arithmetic_v<A> && std::is_arithmetic_v<B>)
constexpr std::common_type_t<A, B> max(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>) return std::fmax(static_cast<T>(a), static_cast<T>(b));
    return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(b) : static_cast<T>(a);
}

inline float __fdividef(float x, float y) { return x / y; }
inline float fdividef(float x, float y) { return x / y; }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
// The device never fuses these; a product kept in memory cannot be fused here either.
inline float __fmul_rn(float x, float y) {
    volatile float product = x * y;
    return product;
}
inline float __fadd_rn(float x, float y) {
    volatile float sum = x + y;
    return sum;
}
inline float __fsub_rn(float x, float y) { return __fadd_rn(x, -y); }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return static_cast<float>(1.0 / sqrt(static_cast<double>(x))); }
inline double __fma_rn(double x, double y, double z) { return fma(x, y, z); }

inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }

inline int __float2int_rn(float x) { return stand_in::saturate<int>(rintf(x)); }
inline int __float2int_rz(float x) { return stand_in::saturate<int>(truncf(x)); }
inline int __float2int_rd(float x) { return stand_in::saturate<int>(floorf(x)); }
inline int __float2int_ru(float x) { return stand_in::saturate<int>(ceilf(x)); }
inline unsigned __float2uint_rn(float x) { return stand_in::saturate<unsigned>(rintf(x)); }
inline unsigned __float2uint_rz(float x) { return stand_in::saturate<unsigned>(truncf(x)); }
inline long long __float2ll_rn(float x) { return stand_in::saturate<long long>(rintf(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __ll2float_rn(long long x) { return static_cast<float>(x); }
inline float __ull2float_rn(unsigned long long x) { return static_cast<float>(x); }

inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
inline unsigned __brev(unsigned x) {
    x = (x & 0x55555555u) << 1 | (x >> 1 & 0x55555555u);
    x = (x & 0x33333333u) << 2 | (x >> 2 & 0x33333333u);
    x = (x & 0x0f0f0f0fu) << 4 | (x >> 4 & 0x0f0f0f0fu);
    return __builtin_bswap32(x);
}
inline unsigned long long __brevll(unsigned long long x) {
    return static_cast<unsigned long long>(__brev(static_cast<unsigned>(x))) << 32 |
           __brev(static_cast<unsigned>(x >> 32));
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    const uint64_t both = static_cast<uint64_t>(high) << 32 | low;
    return static_cast<unsigned>(both << (shift & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    const uint64_t both = static_cast<uint64_t>(high) << 32 | low;
    return static_cast<unsigned>(both >> (shift & 31));
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    const uint64_t both = static_cast<uint64_t>(b) << 32 | a;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) {
        const unsigned pick = selector >> (4 * i);
        unsigned byte = static_cast<unsigned>(both >> (8 * (pick & 7))) & 0xffu;
        if (pick & 8) byte = byte & 0x80u ? 0xffu : 0u;
        result |= byte << (8 * i);
    }
    return result;
}

inline int __mulhi(int a, int b) { return static_cast<int>(static_cast<int64_t>(a) * b >> 32); }
inline unsigned __umulhi(unsigned a, unsigned b) {
    return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
inline int __mul24(int a, int b) { return (a << 8 >> 8) * (b << 8 >> 8); }

inline int __dp4a(int a, int b, int sum) {
    for (int i = 0; i < 32; i += 8) sum += static_cast<int8_t>(a >> i) * static_cast<int8_t>(b >> i);
    return sum;
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned sum) {
    for (int i = 0; i < 32; i += 8) sum += static_cast<uint8_t>(a >> i) * static_cast<uint8_t>(b >> i);
    return sum;
}

#define STAND_IN_SIMD(name, each, element, expression)                                             \
    inline unsigned name(unsigned a, unsigned b) {                                                 \
        return stand_in::each<element>(a, b, [](int x, int y) -> int { return expression; });      \
    }
STAND_IN_SIMD(__vadd4, each_byte, uint8_t, x + y)
STAND_IN_SIMD(__vsub4, each_byte, uint8_t, x - y)
STAND_IN_SIMD(__vaddss4, each_byte, int8_t, std::clamp(x + y, -128, 127))
STAND_IN_SIMD(__vsubss4, each_byte, int8_t, std::clamp(x - y, -128, 127))
STAND_IN_SIMD(__vaddus4, each_byte, uint8_t, std::min(x + y, 255))
STAND_IN_SIMD(__vsubus4, each_byte, uint8_t, std::max(x - y, 0))
STAND_IN_SIMD(__vmaxs4, each_byte, int8_t, std::max(x, y))
STAND_IN_SIMD(__vmins4, each_byte, int8_t, std::min(x, y))
STAND_IN_SIMD(__vmaxu4, each_byte, uint8_t, std::max(x, y))
STAND_IN_SIMD(__vminu4, each_byte, uint8_t, std::min(x, y))
STAND_IN_SIMD(__vabsdiffu4, each_byte, uint8_t, std::abs(x - y))
STAND_IN_SIMD(__vcmpeq4, each_byte, uint8_t, x == y ? 255 : 0)
STAND_IN_SIMD(__vcmpne4, each_byte, uint8_t, x != y ? 255 : 0)
STAND_IN_SIMD(__vcmpgtu4, each_byte, uint8_t, x > y ? 255 : 0)
STAND_IN_SIMD(__vcmpgeu4, each_byte, uint8_t, x >= y ? 255 : 0)
STAND_IN_SIMD(__vcmpgts4, each_byte, int8_t, x > y ? 255 : 0)
STAND_IN_SIMD(__vcmpges4, each_byte, int8_t, x >= y ? 255 : 0)
STAND_IN_SIMD(__vadd2, each_half, uint16_t, x + y)
STAND_IN_SIMD(__vsub2, each_half, uint16_t, x - y)
STAND_IN_SIMD(__vaddss2, each_half, int16_t, std::clamp(x + y, -32768, 32767))
STAND_IN_SIMD(__vsubss2, each_half, int16_t, std::clamp(x - y, -32768, 32767))
STAND_IN_SIMD(__vmaxs2, each_half, int16_t, std::max(x, y))
STAND_IN_SIMD(__vmins2, each_half, int16_t, std::min(x, y))
#undef STAND_IN_SIMD
inline unsigned __vneg4(unsigned a) { return __vsub4(0, a); }
inline unsigned __vabs4(unsigned a) {
    return stand_in::each_byte<int8_t>(a, 0, [](int x, int) { return std::abs(x); });
}

#define STAND_IN_LOAD(name)                                                                        \
    template <class T> T name(const T* from) { return *from; }
STAND_IN_LOAD(__ldg)
STAND_IN_LOAD(__ldca)
STAND_IN_LOAD(__ldcg)
STAND_IN_LOAD(__ldcs)
STAND_IN_LOAD(__ldlu)
STAND_IN_LOAD(__ldcv)
#undef STAND_IN_LOAD
#define STAND_IN_STORE(name)                                                                       \
    template <class T> void name(T* to, std::type_identity_t<T> value) { *to = value; }
STAND_IN_STORE(__stwb)
STAND_IN_STORE(__stcg)
STAND_IN_STORE(__stcs)
STAND_IN_STORE(__stwt)
#undef STAND_IN_STORE

inline size_t __cvta_generic_to_shared(const void* address) { return reinterpret_cast<size_t>(address); }
inline void __nanosleep(unsigned) {}
inline long long clock64() { return std::chrono::steady_clock::now().time_since_epoch().count(); }
[[noreturn]] inline void __trap() { stand_in::fail(stand_in::LAUNCH_FAILED, "__trap()"); }
#define __builtin_assume(x) static_cast<void>(0)
