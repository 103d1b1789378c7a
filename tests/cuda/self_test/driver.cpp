// What the driver refuses and reports: wrong handles and addresses, limits, faults of kernels, told failures.
#include <signal.h>
#include <sys/mman.h>

#include <cstring>
#include <thread>

#include "check.h"

TEST(unknown_kernels_are_not_found) {
    CUmodule module;
    CUfunction found;
    OK(cuModuleLoadData(&module, ""));
    EXPECT_IS(cuModuleGetFunction(&found, module, "no_such_kernel"), CUDA_ERROR_NOT_FOUND);
    OK(cuModuleGetFunction(&found, module, "add"));
    OK(cuModuleUnload(module));
    EXPECT_IS(cuModuleGetFunction(&found, module, "add"), CUDA_ERROR_INVALID_HANDLE);
    EXPECT_IS(cuLaunchKernel(found, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr), CUDA_ERROR_INVALID_HANDLE);
}

TEST(launches_have_limits) {
    Buffer<float> out(64);
    EXPECT_IS(launch("writes_at", {1, 1025}, out.address, 0ll), CUDA_ERROR_INVALID_VALUE);
    EXPECT_IS(launch("writes_at", {0, 32}, out.address, 0ll), CUDA_ERROR_INVALID_VALUE);
    EXPECT_IS(launch("writes_at", {1, 32, 48 * 1024 + 1}, out.address, 0ll), CUDA_ERROR_INVALID_VALUE);
    const CUfunction opted = function("reads_dynamic_shared");
    EXPECT_IS(launch("reads_dynamic_shared", {1, 32, 100 * 1024}, out.address, 0), CUDA_ERROR_INVALID_VALUE);
    EXPECT_IS(cuFuncSetAttribute(opted, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 228 * 1024),
              CUDA_ERROR_INVALID_VALUE);
    OK(cuFuncSetAttribute(opted, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 100 * 1024));
    OK(outcome("reads_dynamic_shared", {1, 32, 100 * 1024}, out.address, 100 * 256 - 1));
}

TEST(memory_is_checked) {
    CUdeviceptr address;
    char host[64];
    OK(cuMemAlloc(&address, 100));
    EXPECT_IS(cuMemAlloc(&address + 1, 0), CUDA_ERROR_INVALID_VALUE);
    OK(cuMemcpyHtoD(address + 36, host, 64));
    EXPECT_IS(cuMemcpyHtoD(address + 37, host, 64), CUDA_ERROR_INVALID_VALUE);
    EXPECT_IS(cuMemcpyDtoH(host, address - 1, 1), CUDA_ERROR_INVALID_VALUE);
    EXPECT_IS(cuMemsetD32(address + 2, 0, 1), CUDA_ERROR_INVALID_VALUE);
    EXPECT_IS(cuMemFree(address + 16), CUDA_ERROR_INVALID_VALUE);
    OK(cuMemFree(address));
    EXPECT_IS(cuMemcpyHtoD(address, host, 1), CUDA_ERROR_INVALID_VALUE);
    EXPECT_IS(cuMemFree(address), CUDA_ERROR_INVALID_VALUE);
    OK(cuMemFree(0));
}

TEST(memory_begins_as_nan_and_is_filled) {
    Buffer<float> floats(100);
    for (const float x : floats.get()) EXPECT(std::isnan(x));
    OK(cuMemsetD32(floats.address, 0x3f800000, 99));
    EXPECT_IS(floats.get()[98], 1.0f);
    EXPECT(std::isnan(floats.get()[99]));
}

TEST(memory_ends) {
    size_t free, total, left;
    OK(cuMemGetInfo(&free, &total));
    CUdeviceptr address, more;
    EXPECT_IS(cuMemAlloc(&address, free + 1), CUDA_ERROR_OUT_OF_MEMORY);
    EXPECT_IS(cuMemAlloc(&address, ~0ull), CUDA_ERROR_OUT_OF_MEMORY);
    OK(cuMemAlloc(&address, 1 << 20));
    OK(cuMemGetInfo(&left, &total));
    EXPECT_IS(free - left, 1ull << 20);
    EXPECT_IS(cuMemAlloc(&more, free), CUDA_ERROR_OUT_OF_MEMORY);
    OK(cuMemFree(address));
    OK(cuMemGetInfo(&left, &total));
    EXPECT_IS(left, free);
}

TEST(faults_end_the_launch_and_stay) {
    Buffer<float> out(64);
    const CUfunction known = function("writes_at");
    OK(launch("writes_at", {8, 64}, out.address, 1ll << 40));
    EXPECT_IS(cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
    EXPECT_IS(cuLaunchKernel(known, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr), CUDA_ERROR_ILLEGAL_ADDRESS);
    CUdeviceptr address;
    EXPECT_IS(cuMemAlloc(&address, 16), CUDA_ERROR_ILLEGAL_ADDRESS);
    stand_in_revive();
    OK(outcome("writes_at", {1, 1}, out.address, 3ll));
    EXPECT_IS(out.get()[3], 1.0f);
}

TEST(faults_are_told_apart) {
    Buffer<float> out(64);
    EXPECT_IS(outcome("writes_at", {1, 1}, out.address, 1ll << 60), CUDA_ERROR_ILLEGAL_ADDRESS);
    EXPECT_IS(outcome("loads_pack", {1, 1}, out.address + 4, out.address), CUDA_ERROR_MISALIGNED_ADDRESS);
    EXPECT_IS(outcome("loads_pack", {1, 1}, out.address, out.address + 8), CUDA_ERROR_MISALIGNED_ADDRESS);
    EXPECT_IS(outcome("leaves_static_array", {1, 1}, out.address, 8), CUDA_ERROR_MISALIGNED_ADDRESS);
    OK(outcome("leaves_static_array", {1, 1}, out.address, 7));
    EXPECT_IS(outcome("uses_up_its_stack", {1, 1}, out.address), CUDA_ERROR_LAUNCH_FAILED);
    EXPECT_IS(outcome("reads_dynamic_shared", {1, 32, 128}, out.address, 32), CUDA_ERROR_ILLEGAL_ADDRESS);
}

// As Rust's threads have it.
TEST(faults_are_caught_where_a_small_signal_stack_is_set) {
    CUcontext context;
    OK(cuCtxGetCurrent(&context));
    Buffer<float> out(64);
    CUresult ended = CUDA_SUCCESS;
    std::thread([&] {
        // Below it lies a page that must not be touched.
        constexpr int FLAGS = MAP_PRIVATE | MAP_ANONYMOUS;
        auto* small = static_cast<char*>(mmap(nullptr, 3 * 4096, PROT_READ | PROT_WRITE, FLAGS, -1, 0));
        mprotect(small, 4096, PROT_NONE);
        stack_t signals{};
        signals.ss_sp = small + 4096;
        signals.ss_size = 2 * 4096;
        sigaltstack(&signals, nullptr);
        OK(cuCtxSetCurrent(context));
        ended = outcome("writes_at", {1, 1}, out.address, 1ll << 40);
    }).join();
    EXPECT_IS(ended, CUDA_ERROR_ILLEGAL_ADDRESS);
}

TEST(memory_past_the_end_is_nobodys) {
    Buffer<float> out(64);
    EXPECT_IS(outcome("writes_at", {1, 1}, out.address, 64ll), CUDA_ERROR_ILLEGAL_ADDRESS);
    EXPECT_IS(outcome("writes_at", {1, 1}, out.address, -1500ll), CUDA_ERROR_ILLEGAL_ADDRESS);
}

TEST(freed_memory_given_to_a_kernel_is_found) {
    CUdeviceptr freed;
    OK(cuMemAlloc(&freed, 64));
    OK(cuMemFree(freed));
    EXPECT_IS(outcome("writes_at", {1, 1}, freed, 0ll), CUDA_ERROR_ILLEGAL_ADDRESS);
}

// Only with STAND_IN_GUARD=1, under which the build runs all tests once more.
TEST(guarded_memory_ends_where_it_ends) {
    if (getenv("STAND_IN_GUARD") == nullptr) return;
    Buffer<float> out(60);
    OK(outcome("writes_at", {1, 1}, out.address, 59ll));
    EXPECT_IS(outcome("writes_at", {1, 1}, out.address, 60ll), CUDA_ERROR_ILLEGAL_ADDRESS);
    EXPECT_IS(out.address % 16, 0u);
}

TEST(failures_come_when_told) {
    CUdeviceptr address;
    Buffer<float> out(4);
    stand_in_fail("cuMemAlloc:2:2,kernel=writes_at:3:700");
    OK(cuMemAlloc(&address, 16));
    EXPECT_IS(cuMemAlloc(&address, 16), CUDA_ERROR_OUT_OF_MEMORY);
    OK(cuMemAlloc(&address, 16));
    OK(outcome("writes_at", {1, 1}, out.address, 0ll));
    OK(outcome("writes_at", {1, 1}, out.address, 1ll));
    OK(launch("writes_at", {1, 1}, out.address, 2ll));
    EXPECT_IS(cuStreamSynchronize(nullptr), CUDA_ERROR_ILLEGAL_ADDRESS);
    EXPECT_IS(cuStreamSynchronize(nullptr), CUDA_ERROR_ILLEGAL_ADDRESS);
    stand_in_revive();
    stand_in_fail("");
    EXPECT_IS(out.get()[1], 1.0f);
    EXPECT(std::isnan(out.get()[2]));
}

TEST(calls_are_counted) {
    stand_in_reset();
    Buffer<float> out(4);
    OK(outcome("writes_at", {1, 1}, out.address, 0ll));
    OK(outcome("writes_at", {1, 1}, out.address, 0ll));
    EXPECT_IS(stand_in_count("cuMemAlloc"), 1ull);
    EXPECT_IS(stand_in_count("cuMemAlloc_v2"), 1ull);
    EXPECT_IS(stand_in_count("cuLaunchKernel"), 2ull);
    EXPECT_IS(stand_in_count("kernel:writes_at"), 2ull);
    EXPECT_IS(stand_in_count("cuMemFree"), 0ull);
}

TEST(contexts_are_each_threads_own) {
    CUresult without = CUDA_SUCCESS;
    std::thread([&] {
        CUdeviceptr address;
        without = cuMemAlloc(&address, 16);
    }).join();
    EXPECT_IS(without, CUDA_ERROR_INVALID_CONTEXT);
}

static int num_mappings() {
    int lines = 0;
    FILE* maps = fopen("/proc/self/maps", "r");
    for (int c; (c = fgetc(maps)) != EOF;) lines += c == '\n';
    fclose(maps);
    return lines;
}

// A test harness starts a thread for each test, and a process's mappings are counted.
TEST(threads_that_end_leave_no_mappings) {
    CUcontext context;
    OK(cuCtxGetCurrent(&context));
    Buffer<int> out(256);
    const auto launch_on_threads = [&](int count) {
        for (int i = 0; i < count; i++) {
            std::thread([&] {
                OK(cuCtxSetCurrent(context));
                OK(outcome("reverses", {1, 256}, out.address));
            }).join();
        }
        return num_mappings();
    };
    const int before = launch_on_threads(2);
    EXPECT(launch_on_threads(50) < before + 50);
}

TEST(errors_have_names) {
    const char* name;
    OK(cuGetErrorName(CUDA_ERROR_ILLEGAL_ADDRESS, &name));
    EXPECT(strcmp(name, "CUDA_ERROR_ILLEGAL_ADDRESS") == 0);
    OK(cuGetErrorString(CUDA_ERROR_OUT_OF_MEMORY, &name));
    EXPECT(strcmp(name, "out of memory") == 0);
    EXPECT_IS(cuGetErrorName(static_cast<CUresult>(12345), &name), CUDA_ERROR_INVALID_VALUE);
}

TEST(functions_are_found_by_name) {
    void* found = nullptr;
    OK(cuGetProcAddress("cuMemAlloc", &found, 13000, 0, nullptr));
    EXPECT(found == reinterpret_cast<void*>(&cuMemAlloc));
    EXPECT_IS(cuGetProcAddress("cuNoSuchFunction", &found, 13000, 0, nullptr), CUDA_ERROR_NOT_FOUND);
}
