// What the stand-in's libcuda offers to the other stand-ins, which find it by dlsym: work of their own in a
// stream, recorded and counted as a kernel is.
#pragma once

#include <stddef.h>
#include <stdint.h>

extern "C" {
// Counts a call of a library's function; returns the error that STAND_IN_FAIL wants, or a failed kernel left.
typedef int stand_in_enter_t(const char* function);
// Lets `run`, with a copy of its argument, be done in a stream as the kernel `name`. `run` returns 0 or a CUDA
// error. Returns a CUDA error where the stream refuses.
typedef int stand_in_submit_t(void* stream, const char* name, int (*run)(const void*), const void* argument,
                              size_t bytes);
// Calls `work` with each number below `count`, on all cores.
typedef void stand_in_share_out_t(uint64_t count, void (*work)(void* argument, uint64_t i), void* argument);
// Whether device memory lies there.
typedef int stand_in_is_device_t(const void* address, size_t bytes);
}
