// The switch between two stacks of one OS thread.
#pragma once

#include <stdint.h>

namespace stand_in {

#if defined(__x86_64__)

// Where a suspended fiber's registers lie: on its own stack.
struct Context {
    void* stack_pointer;
};

extern "C" void stand_in_switch(void** from, void* to);

inline void switch_context(Context& from, Context& to) { stand_in_switch(&from.stack_pointer, to.stack_pointer); }

inline Context fresh(void* top, void (*enter)()) {
    void** at = static_cast<void**>(top);
    // A function expects its stack 8 bytes past a multiple of 16, as a call leaves it.
    *--at = nullptr;
    *--at = reinterpret_cast<void*>(enter);
    for (int i = 0; i < 6; i++) *--at = nullptr;
    return {at};
}

#else

#include <ucontext.h>

struct Context {
    ucontext_t context;
};

void switch_context(Context& from, Context& to);
Context fresh(void* top, void (*enter)());

#endif

} // namespace stand_in
