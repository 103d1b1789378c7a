// See library.h.
#include "library.h"

#include <string.h>

#include "state.h"

using namespace stand_in;

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int stand_in_enter(const char* function) {
    return call(function, Needs::CONTEXT, [] {});
}

EXPORT int stand_in_submit(void* handle, const char* name, int (*run)(const void*), const void* argument,
                           size_t bytes) {
    const std::lock_guard hold(state().lock);
    try {
        const auto* from = static_cast<const unsigned char*>(argument);
        const std::string label = name;
        const auto act = [copy = std::vector<unsigned char>(from, from + bytes), label, run] {
            const int told = count_launch(label);
            return told != 0 ? told : run(copy.data());
        };
        submit(stream_of(static_cast<CUstream>(handle)), {CU_GRAPH_NODE_TYPE_KERNEL, "kernel:" + label, act});
        return 0;
    } catch (CUresult code) {
        return code;
    }
}

EXPORT void stand_in_share_out(uint64_t count, void (*work)(void*, uint64_t), void* argument) {
    share_out(count, false, [&](uint64_t i) { work(argument, i); });
}

EXPORT int stand_in_is_device(const void* address, size_t bytes) { return is_device(address, bytes); }
