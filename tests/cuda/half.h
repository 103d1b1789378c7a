// Floats of 16 bits, widened by the processor where it can.
#pragma once

#include <stdint.h>

#include <bit>

#if defined(__F16C__)
#include <immintrin.h>
#else
#include <cuda_fp16.h>
#endif

namespace stand_in {

inline float from_f16(uint16_t bits) {
#if defined(__F16C__)
    return _cvtsh_ss(bits);
#else
    return __half2float(__half(__half_raw{bits}));
#endif
}

inline float from_bf16(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

} // namespace stand_in
