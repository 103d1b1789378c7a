// CUDA's words for a host compiler: with SCONCE_HOST defined, `prelude.cuh` begins with this file instead
// of what nvcc supplies, and each thread of a block is a fiber (`fiber.h`).
#pragma once

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <limits>
#include <type_traits>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <vector_functions.h>
#include <vector_types.h>

// Standard headers use the word as an attribute's name.
#undef __noinline__

#undef __shared__
#define __shared__ static thread_local
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __maxnreg__
#define __maxnreg__(...)
#undef __constant__
#define __constant__

#include "fiber.h"

#define threadIdx (::stand_in::here.thread)
#define blockIdx (::stand_in::here.block)
#define blockDim (::stand_in::here.block_dim)
#define gridDim (::stand_in::here.grid_dim)
constexpr int warpSize = 32;

// The static shared memory of a file's kernels lies between two marks that the build links around it.
#define STAND_IN_JOIN_(a, b) a##b
#define STAND_IN_JOIN(a, b) STAND_IN_JOIN_(a, b)
#ifdef STAND_IN_UNIT
extern "C" __thread unsigned char STAND_IN_JOIN(stand_in_begin_, STAND_IN_UNIT)[64];
extern "C" __thread unsigned char STAND_IN_JOIN(stand_in_end_, STAND_IN_UNIT)[64];
static inline stand_in::Range stand_in_static_shared() {
    return {STAND_IN_JOIN(stand_in_begin_, STAND_IN_UNIT) + 64, STAND_IN_JOIN(stand_in_end_, STAND_IN_UNIT)};
}
#else
static inline stand_in::Range stand_in_static_shared() { return {nullptr, nullptr}; }
#endif

#define SCONCE_KERNEL(name)                                                                        \
    static const ::stand_in::Registration stand_in_registration_##name(                            \
        ::stand_in::describe<name>(#name, stand_in_static_shared));
#define SCONCE_DYNAMIC_SHARED(type, name)                                                          \
    type* name = reinterpret_cast<type*>(::stand_in::here.dynamic_shared)

#include "scalar.h"

#include "atomic.h"

#include "warp.h"

#include "instructions.h"
