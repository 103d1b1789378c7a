// Devices and contexts.
#include <algorithm>
#include <stdio.h>
#include <string.h>

#include "state.h"

namespace stand_in {

namespace {

// Never destroyed: what a thread owns may call the driver while the thread ends.
thread_local std::vector<Context*>& stack = *new std::vector<Context*>;

int checked(CUdevice device) {
    refuse_if(device < 0 || device >= num_devices(), CUDA_ERROR_INVALID_DEVICE);
    return device;
}

// An H100's, where somebody asked so far.
int attribute(CUdevice_attribute which) {
    static const std::map<int, int> known = {
        {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 1024},
        {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, 1024},
        {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, 1024},
        {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, 64},
        {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, 2147483647},
        {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, 65535},
        {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, 65535},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, 49152},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 232448},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, 233472},
        {CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK, 1024},
        {CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY, 65536},
        {CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32},
        {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, 65536},
        {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR, 65536},
        {CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 1980000},
        {CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, 2619000},
        {CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 5120},
        {CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 50 << 20},
        {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 132},
        {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 2048},
        {CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR, 32},
        {CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS, 1},
        {CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT, 3},
        {CU_DEVICE_ATTRIBUTE_GPU_OVERLAP, 1},
        {CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1},
        {CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 1},
        {CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED, 1},
        {CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH, 1},
        {CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 1},
        {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 9},
        {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 0},
        {CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT, 512},
        {CU_DEVICE_ATTRIBUTE_PCI_BUS_ID, 1},
    };
    const auto found = known.find(which);
    return found == known.end() ? 0 : found->second;
}

} // namespace

State& state() {
    static State& only = *new State;
    return only;
}

int num_devices() {
    static const int count = static_cast<int>(setting("STAND_IN_DEVICES", 1));
    return count;
}

Context& current_context() {
    refuse_if(stack.empty() || stack.back() == nullptr, CUDA_ERROR_INVALID_CONTEXT);
    return *stack.back();
}

} // namespace stand_in

using namespace stand_in;

API cuInit(unsigned flags) {
    return call(__func__, Needs::NOTHING, [&] {
        refuse_if(flags != 0);
        refuse_if(num_devices() == 0, CUDA_ERROR_NO_DEVICE);
        State& s = state();
        if (s.initialised) return;
        for (int i = 0; i < num_devices(); i++) s.primary.push_back(std::make_unique<Context>(Context{i, 0, 0}));
        s.initialised = true;
    });
}

API cuDriverGetVersion(int* version) {
    return call(__func__, Needs::NOTHING, [&] { *version = 13000; });
}

API cuDeviceGetCount(int* count) {
    return call(__func__, Needs::INIT, [&] { *count = num_devices(); });
}

API cuDeviceGet(CUdevice* device, int ordinal) {
    return call(__func__, Needs::INIT, [&] { *device = checked(ordinal); });
}

API cuDeviceGetName(char* name, int length, CUdevice device) {
    return call(__func__, Needs::INIT, [&] {
        refuse_if(length <= 0);
        snprintf(name, static_cast<size_t>(length), "CUDA stand-in %d", checked(device));
    });
}

API cuDeviceGetUuid(CUuuid* uuid, CUdevice device) {
    return call(__func__, Needs::INIT, [&] {
        memset(uuid->bytes, 0x5c, sizeof uuid->bytes);
        uuid->bytes[15] = static_cast<char>(checked(device));
    });
}

#undef cuDeviceGetUuid
API cuDeviceGetUuid(CUuuid* uuid, CUdevice device) { return cuDeviceGetUuid_v2(uuid, device); }

API cuDeviceGetAttribute(int* value, CUdevice_attribute which, CUdevice device) {
    return call(__func__, Needs::INIT, [&] {
        checked(device);
        refuse_if(which <= 0 || which >= CU_DEVICE_ATTRIBUTE_MAX);
        *value = which == CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID ? device : attribute(which);
    });
}

API cuDeviceTotalMem(size_t* bytes, CUdevice device) {
    return call(__func__, Needs::INIT, [&] {
        checked(device);
        *bytes = static_cast<size_t>(setting("STAND_IN_MEMORY", 2l << 30));
    });
}

API cuDeviceCanAccessPeer(int* can, CUdevice device, CUdevice peer) {
    return call(__func__, Needs::INIT, [&] { *can = checked(device) != checked(peer); });
}

API cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
    return call(__func__, Needs::INIT, [&] {
        Context& primary = *state().primary[static_cast<size_t>(checked(device))];
        primary.num_retained++;
        *context = reinterpret_cast<CUcontext>(&primary);
    });
}

API cuDevicePrimaryCtxRelease(CUdevice device) {
    return call(__func__, Needs::INIT, [&] {
        Context& primary = *state().primary[static_cast<size_t>(checked(device))];
        refuse_if(primary.num_retained == 0, CUDA_ERROR_INVALID_CONTEXT);
        primary.num_retained--;
    });
}

API cuDevicePrimaryCtxReset(CUdevice device) {
    return call(__func__, Needs::INIT, [&] { checked(device); });
}

API cuDevicePrimaryCtxSetFlags(CUdevice device, unsigned flags) {
    return call(__func__, Needs::INIT, [&] { state().primary[static_cast<size_t>(checked(device))]->flags = flags; });
}

API cuDevicePrimaryCtxGetState(CUdevice device, unsigned* flags, int* active) {
    return call(__func__, Needs::INIT, [&] {
        const Context& primary = *state().primary[static_cast<size_t>(checked(device))];
        *flags = primary.flags;
        *active = primary.num_retained != 0;
    });
}

static Context* known(CUcontext handle) {
    if (handle == nullptr) return nullptr;
    auto* wanted = reinterpret_cast<Context*>(handle);
    for (const auto& primary : state().primary) {
        if (primary.get() == wanted && primary->num_retained != 0) return wanted;
    }
    return &state().contexts.find(handle, CUDA_ERROR_INVALID_CONTEXT);
}

API cuCtxCreate(CUcontext* context, CUctxCreateParams*, unsigned flags, CUdevice device) {
    return call(__func__, Needs::INIT, [&] {
        *context = state().contexts.add<CUcontext>(std::make_unique<Context>(Context{checked(device), flags, 1}));
        stack.push_back(reinterpret_cast<Context*>(*context));
    });
}

API cuCtxDestroy(CUcontext context) {
    return call(__func__, Needs::INIT, [&] {
        auto* gone = &state().contexts.find(context, CUDA_ERROR_INVALID_CONTEXT);
        std::replace(stack.begin(), stack.end(), gone, static_cast<Context*>(nullptr));
        state().contexts.remove(context, CUDA_ERROR_INVALID_CONTEXT);
    });
}

API cuCtxSetCurrent(CUcontext context) {
    return call(__func__, Needs::INIT, [&] {
        Context* next = known(context);
        if (!stack.empty()) stack.pop_back();
        if (next != nullptr) stack.push_back(next);
    });
}

API cuCtxGetCurrent(CUcontext* context) {
    return call(__func__, Needs::INIT, [&] {
        *context = stack.empty() ? nullptr : reinterpret_cast<CUcontext>(stack.back());
    });
}

API cuCtxPushCurrent(CUcontext context) {
    return call(__func__, Needs::INIT, [&] {
        refuse_if(context == nullptr, CUDA_ERROR_INVALID_CONTEXT);
        stack.push_back(known(context));
    });
}

API cuCtxPopCurrent(CUcontext* context) {
    return call(__func__, Needs::INIT, [&] {
        refuse_if(stack.empty(), CUDA_ERROR_INVALID_CONTEXT);
        if (context != nullptr) *context = reinterpret_cast<CUcontext>(stack.back());
        stack.pop_back();
    });
}

API cuCtxGetDevice(CUdevice* device) {
    return call(__func__, Needs::INIT, [&] { *device = current_context().device; });
}

API cuCtxGetFlags(unsigned* flags) {
    return call(__func__, Needs::INIT, [&] { *flags = current_context().flags; });
}

API cuCtxSetFlags(unsigned flags) {
    return call(__func__, Needs::INIT, [&] { current_context().flags = flags; });
}

API cuCtxGetApiVersion(CUcontext, unsigned* version) {
    return call(__func__, Needs::INIT, [&] { *version = 13000; });
}

API cuCtxSynchronize() {
    return call(__func__, Needs::CONTEXT, [&] { refuse_any_capture(); });
}

API cuCtxSetLimit(CUlimit, size_t) {
    return call(__func__, Needs::CONTEXT, [&] {});
}

API cuCtxGetLimit(size_t* value, CUlimit) {
    return call(__func__, Needs::CONTEXT, [&] { *value = 0; });
}

API cuCtxSetCacheConfig(CUfunc_cache) {
    return call(__func__, Needs::CONTEXT, [&] {});
}

API cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    return call(__func__, Needs::CONTEXT, [&] {
        *least = 0;
        *greatest = -5;
    });
}
