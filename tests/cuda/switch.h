// The switch between two stacks of one OS thread. By hand where it is known, since blocks switch at every
// barrier, and `swapcontext` asks the kernel each time.
#pragma once

#include <stddef.h>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace stand_in {

#if defined(__x86_64__)

// A suspended fiber: its stack's top holds where it goes on.
struct Context {
    void* stack_pointer;
};

// Leaves it to the compiler to save what the caller still needs. It jumps rather than returns, as the processor
// predicts that all fibers go on at the same place. Callers must be compiled without a red zone.
inline __attribute__((always_inline)) void switch_context(Context& from, Context& to) {
    void *save = &from, *load = to.stack_pointer;
    asm volatile("pushq %%rbp\n\t"
                 "leaq 1f(%%rip), %%rax\n\t"
                 "pushq %%rax\n\t"
                 "movq %%rsp, (%0)\n\t"
                 "movq %1, %%rsp\n\t"
                 "popq %%rax\n\t"
                 "jmp *%%rax\n"
                 "1:\n\t"
                 "popq %%rbp"
                 : "+D"(save), "+S"(load)
                 :
                 : "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "xmm0",
                   "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
                   "xmm12", "xmm13", "xmm14", "xmm15", "memory", "cc");
}

// Makes a fiber that begins with `enter` on the stack that ends at `top`, a multiple of 16.
inline void make_fresh(Context& fiber, void* top, size_t, void (*enter)()) {
    void** at = static_cast<void**>(top);
    // A function expects its stack 8 bytes past a multiple of 16, as a call leaves it.
    *--at = nullptr;
    *--at = reinterpret_cast<void*>(enter);
    fiber.stack_pointer = at;
}

#else

struct Context {
    ucontext_t registers;
};

inline void switch_context(Context& from, Context& to) { swapcontext(&from.registers, &to.registers); }

inline void make_fresh(Context& fiber, void* top, size_t room, void (*enter)()) {
    getcontext(&fiber.registers);
    fiber.registers.uc_stack.ss_sp = static_cast<char*>(top) - room;
    fiber.registers.uc_stack.ss_size = room;
    fiber.registers.uc_link = nullptr;
    makecontext(&fiber.registers, enter, 0);
}

#endif

} // namespace stand_in
