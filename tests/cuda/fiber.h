// What a kernel that was built for the host sees of the runtime: who and where it is, where threads meet,
// and how it makes itself known. `block.cpp` runs it.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <type_traits>
#include <utility>

#include <vector_types.h>

namespace stand_in {

struct Here {
    uint3 thread, block, block_dim, grid_dim;
    unsigned lane;
    unsigned char* dynamic_shared;
};

// Of the fiber that runs on this OS thread now.
extern __thread Here here;

struct Range {
    unsigned char *begin, *end;
};

struct Parameter {
    size_t bytes;
    bool is_pointer;
};

struct Kernel {
    const char* name;
    void (*call)(void* const* arguments);
    const Parameter* parameters;
    size_t num_parameters;
    // The calling OS thread's static shared memory of all kernels of the file.
    Range (*static_shared)();
};

struct Registration {
    explicit Registration(const Kernel& kernel);
};

template <class... A, size_t... I>
void call_with(void (*kernel)(A...), void* const* arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_cv_t<A>*>(arguments[I])...);
}

template <class... A> struct Parameters {
    static constexpr Parameter list[sizeof...(A) + 1] = {{sizeof(A), std::is_pointer_v<A>}..., {0, false}};
};

template <auto F, class... A> Kernel describe_as(const char* name, Range (*shared)(), void (*)(A...)) {
    const auto call = [](void* const* arguments) { call_with(F, arguments, std::index_sequence_for<A...>()); };
    return {name, call, Parameters<A...>::list, sizeof...(A), shared};
}

template <auto F> Kernel describe(const char* name, Range (*shared)()) {
    return describe_as<F>(name, shared, F);
}

// A point where lanes of a warp meet. The one that comes last does the work of all: `complete` gets the
// arguments of each lane of the mask.
struct Collective {
    const char* name;
    void (*complete)(void* const* lanes, unsigned mask);
};

void meet(unsigned mask, const Collective& collective, void* arguments);

// A point where all threads of a block meet; returns how many predicates were true.
int meet_block(const char* name, bool predicate);

// The lanes of this warp that have not left the kernel.
unsigned active_lanes();

bool is_shared(const void* address, size_t bytes);

// Copies that are only performed at the wait that covers them.
void copy_begin(void* to, const void* from, bool valid);
void copy_commit();
// What kernels do where they are launched before the one before has ended.
void wait_for_those_before();
void let_dependents_begin();
void copy_wait(int pending);

// Ends the launch with a CUDA error.
[[noreturn]] void fail(int code, const char* message);

constexpr int ILLEGAL_ADDRESS = 700, MISALIGNED_ADDRESS = 716, INVALID_ADDRESS_SPACE = 717, LAUNCH_FAILED = 719;

} // namespace stand_in
