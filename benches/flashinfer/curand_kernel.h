// Stands in for cuRAND's header, which a part of CUTLASS that FlashInfer includes and never calls asks for:
// so cuRAND itself, of 60 MiB, need not be fetched.
#pragma once

struct curandState_t {};

__device__ inline void curand_init(unsigned long long, unsigned long long, unsigned long long, curandState_t*) {
    __trap();
}
__device__ inline float curand_uniform(curandState_t*) { __trap(); return 0.0f; }
__device__ inline float curand_normal(curandState_t*) { __trap(); return 0.0f; }
__device__ inline double curand_uniform_double(curandState_t*) { __trap(); return 0.0; }
__device__ inline double curand_normal_double(curandState_t*) { __trap(); return 0.0; }
