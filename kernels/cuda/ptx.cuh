// Instructions that CUDA C++ has no word for. A host build gives each the meaning that the PTX manual
// states (`tests/cuda`).
#pragma once

#ifndef SCONCE_HOST

// Copies 16 bytes from global to shared memory without passing registers; fills with zeros, and reads
// nothing, where `valid` is false.
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, bool valid) {
    const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    const int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;\n" ::"r"(to), "l"(global),
                 "r"(bytes)
                 : "memory");
}

// Closes the group of the copies begun since the last one.
__device__ __forceinline__ void cp_async_commit() {
    asm volatile("cp.async.commit_group;\n" ::: "memory");
}

// Waits until at most `PENDING` of the thread's groups are unfinished.
template <int PENDING> __device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(PENDING) : "memory");
}

// Loads four 8 x 8 matrices of 16-bit elements: lane `l` names row `l % 8` of matrix `l / 8`, and gets of
// each matrix the elements 2 (l % 4) and the next of row `l / 4`.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&to)[4], const void* shared_row) {
    const unsigned from = static_cast<unsigned>(__cvta_generic_to_shared(shared_row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
}

// As `ldmatrix_x4`, each matrix transposed.
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&to)[4], const void* shared_row) {
    const unsigned from = static_cast<unsigned>(__cvta_generic_to_shared(shared_row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
}

// d += a b: [16, 16] times [16, 8] of bf16 in f32, a warp together; fragments as the PTX manual lays out
// m16n8k16.
__device__ __forceinline__ void mma_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                          __nv_bfloat16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// As above, of f16. The last argument only names the type.
__device__ __forceinline__ void mma_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                          __half) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// x & MASK | BITS: one instruction, where the compiler makes two of constants.
template <uint32_t MASK, uint32_t BITS> __device__ __forceinline__ uint32_t and_or(uint32_t x) {
    uint32_t to;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;\n" : "=r"(to) : "r"(x), "n"(MASK), "n"(BITS));
    return to;
}

// (x - base) scale + minimum, of pairs: the difference is exact, the rest is rounded once.
__device__ __forceinline__ uint32_t scaled_difference(uint32_t x, uint32_t base, uint32_t scale, uint32_t minimum,
                                                      __nv_bfloat16) {
    uint32_t to;
    asm("{.reg .b32 d;\n"
        "fma.rn.bf16x2 d, %1, %5, %2;\n"
        "fma.rn.bf16x2 %0, d, %3, %4;}\n"
        : "=r"(to)
        : "r"(x), "r"(base ^ 0x80008000), "r"(scale), "r"(minimum), "r"(0x3f803f80));
    return to;
}

__device__ __forceinline__ uint32_t scaled_difference(uint32_t x, uint32_t base, uint32_t scale, uint32_t minimum,
                                                      __half) {
    uint32_t to;
    asm("{.reg .b32 d;\n"
        "sub.f16x2 d, %1, %2;\n"
        "fma.rn.f16x2 %0, d, %3, %4;}\n"
        : "=r"(to)
        : "r"(x), "r"(base), "r"(scale), "r"(minimum));
    return to;
}

// A pair of bf16 numbers times 2^120, denormal ones too.
__device__ __forceinline__ uint32_t times_2_to_120(uint32_t pair) {
    uint32_t product;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;\n" : "=r"(product) : "r"(pair), "r"(0x7b807b80), "r"(0x80008000));
    return product;
}

// Four products of signed bytes, added to `sum`.
__device__ __forceinline__ int dot_4(int a, int b, int sum) { return __dp4a(a, b, sum); }

// Loads 16 bytes that are read once: they don't displace others from the first cache. Not `.nc`: ptxas moves
// the wait for the kernels before ahead of loads that nothing orders.
__device__ __forceinline__ uint4 load_once(const void* from) {
    uint4 x;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "l"(from));
    return x;
}

// Lets the next kernel of the stream begin, where it was launched so (programmatic dependent launch).
__device__ __forceinline__ void launch_dependents() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;\n" ::: "memory");
#endif
}

// Waits until the kernels before have ended and their writes are seen. Nothing where the launch was an
// ordinary one.
__device__ __forceinline__ void wait_for_dependencies() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;\n" ::: "memory");
#endif
}

#endif
