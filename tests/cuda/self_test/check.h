// What the stand-in's own tests share: a driver call that must succeed, device buffers, launches, and a list
// of tests by name.
#pragma once

#include <cuda.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

extern "C" {
unsigned long long stand_in_count(const char* name);
void stand_in_reset();
void stand_in_fail(const char* plan);
void stand_in_revive();
}

struct Test {
    const char* name;
    void (*run)();
};

std::vector<Test>& tests();
extern int num_failures;

struct AddTest {
    AddTest(const char* name, void (*run)()) { tests().push_back({name, run}); }
};

#define TEST(name)                                                                                 \
    static void name();                                                                            \
    static const AddTest add_##name(#name, name);                                                  \
    static void name()

#define EXPECT(condition)                                                                          \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            num_failures++;                                                                        \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                \
        }                                                                                          \
    } while (0)

#define EXPECT_IS(value, wanted)                                                                   \
    do {                                                                                           \
        const auto is = (value);                                                                   \
        if (is != (wanted)) {                                                                      \
            num_failures++;                                                                        \
            fprintf(stderr, "%s:%d: %s is %s\n", __FILE__, __LINE__, #value, std::to_string(is).c_str()); \
        }                                                                                          \
    } while (0)

#define OK(call) EXPECT_IS(call, CUDA_SUCCESS)

template <class T> class Buffer {
public:
    explicit Buffer(size_t count) : count(count) { OK(cuMemAlloc(&address, count * sizeof(T))); }
    explicit Buffer(const std::vector<T>& values) : Buffer(values.size()) { set(values); }
    ~Buffer() { cuMemFree(address); }
    Buffer(const Buffer&) = delete;
    void set(const std::vector<T>& values) { OK(cuMemcpyHtoD(address, values.data(), count * sizeof(T))); }
    std::vector<T> get() const {
        std::vector<T> values(count);
        OK(cuMemcpyDtoH(values.data(), address, count * sizeof(T)));
        return values;
    }
    CUdeviceptr address = 0;

private:
    size_t count;
};

struct Shape {
    unsigned grid, block, shared = 0;
};

CUfunction function(const char* name);

// Asks for a launch; returns what the driver answers to that, not how the kernel fares.
template <class... A> CUresult launch_in(CUstream stream, const char* name, Shape shape, A... arguments) {
    void* list[] = {&arguments...};
    return cuLaunchKernel(function(name), shape.grid, 1, 1, shape.block, 1, 1, shape.shared, stream, list, nullptr);
}

template <class... A> CUresult launch(const char* name, Shape shape, A... arguments) {
    return launch_in(nullptr, name, shape, arguments...);
}

// How a kernel ended; the context can be used afterwards.
template <class... A> CUresult outcome(const char* name, Shape shape, A... arguments) {
    const CUresult asked = launch(name, shape, arguments...);
    if (asked != CUDA_SUCCESS) return asked;
    const CUresult ended = cuCtxSynchronize();
    stand_in_revive();
    return ended;
}
