// The functions of `kernels/cuda/ptx.cuh`, as the PTX manual states their meaning.
#pragma once

#include "fiber.h"
#include "half.h"

namespace stand_in {

struct Matrices {
    const uint16_t* row;
    uint32_t to[4];
};

template <bool TRANSPOSED> void complete_ldmatrix(void* const* lanes, unsigned) {
    for (int lane = 0; lane < 32; lane++) {
        auto& mine = *static_cast<Matrices*>(lanes[lane]);
        const int row = lane / 4, col = lane % 4 * 2;
        for (int m = 0; m < 4; m++) {
            const auto at = [&](int r, int c) -> uint32_t {
                return static_cast<Matrices*>(lanes[m * 8 + r])->row[c];
            };
            mine.to[m] = TRANSPOSED ? at(col, row) | at(col + 1, row) << 16
                                    : at(row, col) | at(row, col + 1) << 16;
        }
    }
}

template <bool TRANSPOSED>
inline constexpr Collective LDMATRIX = {TRANSPOSED ? "ldmatrix_x4_trans" : "ldmatrix_x4",
                                        complete_ldmatrix<TRANSPOSED>};

template <bool TRANSPOSED> void ldmatrix(uint32_t (&to)[4], const void* row) {
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0) fail(MISALIGNED_ADDRESS, "ldmatrix of a misaligned row");
    if (!is_shared(row, 16)) fail(INVALID_ADDRESS_SPACE, "ldmatrix from elsewhere than shared memory");
    Matrices mine{static_cast<const uint16_t*>(row), {}};
    meet(0xffffffffu, LDMATRIX<TRANSPOSED>, &mine);
    memcpy(to, mine.to, sizeof to);
}

struct Fragments {
    float* d;
    const uint32_t *a, *b;
};

inline float widen(uint16_t bits, __nv_bfloat16) { return from_bf16(bits); }
inline float widen(uint16_t bits, __half) { return from_f16(bits); }

// One lane's pair of elements of a register.
template <class T> void unpack(uint32_t pair, float* low, float* high) {
    *low = widen(static_cast<uint16_t>(pair), T());
    *high = widen(static_cast<uint16_t>(pair >> 16), T());
}

template <class T> void complete_mma(void* const* lanes, unsigned) {
    float a[16][16], b[8][16];
    for (int lane = 0; lane < 32; lane++) {
        const auto& from = *static_cast<const Fragments*>(lanes[lane]);
        const int group = lane / 4, pair = lane % 4 * 2;
        for (int r = 0; r < 4; r++) {
            float* to = &a[group + r % 2 * 8][pair + r / 2 * 8];
            unpack<T>(from.a[r], to, to + 1);
        }
        for (int r = 0; r < 2; r++) unpack<T>(from.b[r], &b[group][pair + r * 8], &b[group][pair + r * 8 + 1]);
    }
    for (int lane = 0; lane < 32; lane++) {
        float* d = static_cast<const Fragments*>(lanes[lane])->d;
        for (int i = 0; i < 4; i++) {
            const int row = lane / 4 + i / 2 * 8, col = lane % 4 * 2 + i % 2;
            float sum = 0.0f;
            for (int k = 0; k < 16; k++) sum += a[row][k] * b[col][k];
            d[i] += sum;
        }
    }
}

template <class T> inline constexpr Collective MMA = {"mma_16816", complete_mma<T>};

} // namespace stand_in

inline uint32_t times_2_to_120(uint32_t pair) {
    const auto times = [](uint32_t bits) -> uint32_t {
        return __bfloat16_as_ushort(__float2bfloat16(stand_in::from_bf16(static_cast<uint16_t>(bits)) * 0x1p120f));
    };
    return times(pair) | times(pair >> 16) << 16;
}

template <uint32_t MASK, uint32_t BITS> uint32_t and_or(uint32_t x) { return (x & MASK) | BITS; }

template <class T>
uint32_t scaled_difference(uint32_t x, uint32_t base, uint32_t scale, uint32_t minimum, T) {
    const auto one = [](uint32_t x, uint32_t base, uint32_t scale, uint32_t minimum) -> uint32_t {
        const auto wide = [](uint32_t bits) { return stand_in::widen(static_cast<uint16_t>(bits), T()); };
        const float result = std::fmaf(wide(x) - wide(base), wide(scale), wide(minimum));
        if constexpr (std::is_same_v<T, __half>) {
            return __half_as_ushort(__float2half(result));
        } else {
            return __bfloat16_as_ushort(__float2bfloat16(result));
        }
    };
    return one(x, base, scale, minimum) | one(x >> 16, base >> 16, scale >> 16, minimum >> 16) << 16;
}

inline void cp_async_16(void* shared, const void* global, bool valid) {
    stand_in::copy_begin(shared, global, valid);
}
inline void cp_async_commit() { stand_in::copy_commit(); }
template <int PENDING> void cp_async_wait() { stand_in::copy_wait(PENDING); }

inline void ldmatrix_x4(uint32_t (&to)[4], const void* shared_row) {
    stand_in::ldmatrix<false>(to, shared_row);
}
inline void ldmatrix_x4_trans(uint32_t (&to)[4], const void* shared_row) {
    stand_in::ldmatrix<true>(to, shared_row);
}

template <class T> void mma_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], T) {
    stand_in::Fragments mine{d, a, b};
    stand_in::meet(0xffffffffu, stand_in::MMA<T>, &mine);
}

inline int dot_4(int a, int b, int sum) { return __dp4a(a, b, sum); }

inline uint4 load_once(const void* from) {
    if (reinterpret_cast<uintptr_t>(from) % 16 != 0) {
        stand_in::fail(stand_in::MISALIGNED_ADDRESS, "load_once of a misaligned address");
    }
    uint4 x;
    memcpy(&x, from, sizeof x);
    return x;
}

inline void launch_dependents() { stand_in::let_dependents_begin(); }
inline void wait_for_dependencies() { stand_in::wait_for_those_before(); }
