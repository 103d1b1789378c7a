// What the driver sees of the runtime: it finds a kernel by its name, and runs a grid of it.
#pragma once

#include <functional>
#include <string>

#include "fiber.h"

namespace stand_in {

struct Launch {
    const Kernel* kernel;
    uint3 grid, block;
    unsigned shared_bytes;
    void* const* arguments;
    // Its blocks may be placed while the kernel before runs (programmatic dependent launch).
    bool is_early;
};

const Kernel* find_kernel(const std::string& name);

// Runs all blocks, shared out over the OS threads; returns 0, or the CUDA error of the first failure.
int run(const Launch& launch);

// Runs one block on this OS thread.
int run_block(const Launch& launch, uint3 block);

// Makes a fault inside a kernel the launch's failure, on this OS thread. `signal_stack` is null at first, and can
// be used again by another thread after `leave_faults`.
void catch_faults(void*& signal_stack);
void leave_faults(void* signal_stack);

// Calls `work` with 0 to `count` - 1, each once, on all OS threads where `alone` is false.
void share_out(uint64_t count, bool alone, const std::function<void(uint64_t)>& work);

// A number of the environment.
long setting(const char* name, long otherwise);

} // namespace stand_in
