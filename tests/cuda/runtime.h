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
};

const Kernel* find_kernel(const std::string& name);

// Runs all blocks, shared out over the OS threads; returns 0, or the CUDA error of the first failure.
int run(const Launch& launch);

// Runs one block on this OS thread.
int run_block(const Launch& launch, uint3 block);

// Makes a fault inside a kernel the launch's failure. To be called on each OS thread that runs blocks.
void catch_faults();

// Calls `work` with 0 to `count` - 1, each once, on all OS threads where `alone` is false.
void share_out(uint64_t count, bool alone, const std::function<void(uint64_t)>& work);

// A number of the environment.
long setting(const char* name, long otherwise);

} // namespace stand_in
