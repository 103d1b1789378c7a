// The switch between two stacks: by hand where it is known, since blocks switch at every barrier and
// `swapcontext` asks the kernel each time.
#include "switch.h"

#if defined(__x86_64__)

// The registers that a function keeps for its caller; the caller has saved the others.
asm(R"(
    .text
    .globl stand_in_switch
    .hidden stand_in_switch
    .type stand_in_switch, @function
    .align 16
stand_in_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size stand_in_switch, . - stand_in_switch
)");

#else

namespace stand_in {

void switch_context(Context& from, Context& to) { swapcontext(&from.context, &to.context); }

Context fresh(void* top, void (*enter)()) {
    constexpr size_t ROOM = 56 * 1024;
    Context fiber;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = static_cast<char*>(top) - ROOM;
    fiber.context.uc_stack.ss_size = ROOM;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, enter, 0);
    return fiber;
}

} // namespace stand_in

#endif
