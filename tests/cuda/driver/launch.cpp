// Modules, and the launch of the kernels that this library was built with.
#include <stdio.h>
#include <string.h>

#include "state.h"

namespace stand_in {

namespace {

// As if each kernel declared 1 KiB itself, which a GPU subtracts from what needs no asking.
constexpr int DEFAULT_SHARED = 47 * 1024, MAX_SHARED = 227 * 1024;
constexpr uint64_t MAX_THREADS = 1024;

struct alignas(16) Slot {
    unsigned char bytes[16];
};

// A launch with its own copy of the arguments, so that a graph can do it later.
struct Recorded {
    const Kernel* kernel;
    uint3 grid, block;
    unsigned shared_bytes;
    bool is_early;
    std::vector<std::vector<Slot>> values;

    int run() const;
    bool has_stray_pointer(const void* const* arguments) const;
};

// A device finds out when the kernel uses the pointer, and not always.
bool Recorded::has_stray_pointer(const void* const* arguments) const {
    for (size_t i = 0; i < kernel->num_parameters; i++) {
        if (!kernel->parameters[i].is_pointer) continue;
        const void* value;
        memcpy(&value, arguments[i], sizeof value);
        if (value == nullptr || is_device(value, 0) || is_pinned(value, 0)) continue;
        fprintf(stderr, "stand-in: kernel %s gets %p as its argument %zu, which is no memory of the device\n",
                kernel->name, value, i);
        return true;
    }
    return false;
}

int Recorded::run() const {
    const int told = count_launch(kernel->name);
    if (told != 0) return told;
    std::vector<void*> arguments;
    for (const auto& value : values) arguments.push_back(const_cast<Slot*>(value.data()));
    if (has_stray_pointer(arguments.data())) return ILLEGAL_ADDRESS;
    return stand_in::run({kernel, grid, block, shared_bytes, arguments.data(), is_early});
}

void check(const Function& function, const CUlaunchConfig& config) {
    const auto product = [](uint64_t x, uint64_t y, uint64_t z) { return x * y * z; };
    const uint64_t threads = product(config.blockDimX, config.blockDimY, config.blockDimZ);
    refuse_if(threads == 0 || threads > MAX_THREADS || config.blockDimZ > 64);
    refuse_if(config.gridDimX == 0 || config.gridDimY == 0 || config.gridDimZ == 0);
    refuse_if(config.gridDimX > 0x7fffffffu || config.gridDimY > 65535 || config.gridDimZ > 65535);
    refuse_if(config.sharedMemBytes > static_cast<unsigned>(function.max_dynamic_shared));
}

bool is_early(const CUlaunchConfig& config) {
    bool found = false;
    for (unsigned i = 0; i < config.numAttrs; i++) {
        const CUlaunchAttribute& attribute = config.attrs[i];
        refuse_if(attribute.id != CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, CUDA_ERROR_NOT_SUPPORTED);
        found |= attribute.value.programmaticStreamSerializationAllowed != 0;
    }
    return found;
}

void launch(CUfunction handle, const CUlaunchConfig& config, void** parameters, void** extra) {
    const Function& function = state().functions.find(handle);
    const Kernel& kernel = *function.kernel;
    check(function, config);
    refuse_if(extra != nullptr || (parameters == nullptr && kernel.num_parameters != 0));
    Recorded recorded{&kernel,
                      {config.gridDimX, config.gridDimY, config.gridDimZ},
                      {config.blockDimX, config.blockDimY, config.blockDimZ},
                      config.sharedMemBytes,
                      is_early(config),
                      {}};
    for (size_t i = 0; i < kernel.num_parameters; i++) {
        const size_t bytes = kernel.parameters[i].bytes;
        auto& value = recorded.values.emplace_back((bytes + sizeof(Slot) - 1) / sizeof(Slot));
        memcpy(value.data(), parameters[i], bytes);
    }
    submit(stream_of(config.hStream), {CU_GRAPH_NODE_TYPE_KERNEL, std::string("kernel:") + kernel.name,
                                       [recorded = std::move(recorded)] { return recorded.run(); }});
}

int attribute(const Function& function, CUfunction_attribute which) {
    switch (which) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: return static_cast<int>(MAX_THREADS);
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: return function.max_dynamic_shared;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION: return 90;
    case CU_FUNC_ATTRIBUTE_NUM_REGS: return 64;
    default: return 0;
    }
}

CUfunction find_function(Module& module, const char* name) {
    const auto known = module.functions.find(name);
    if (known != module.functions.end()) return known->second;
    const Kernel* kernel = find_kernel(name);
    refuse_if(kernel == nullptr, CUDA_ERROR_NOT_FOUND);
    auto made = std::make_unique<Function>(Function{kernel, DEFAULT_SHARED});
    return module.functions[name] = state().functions.add<CUfunction>(std::move(made));
}

// Whatever the image holds, its kernels are those of this library.
void load(CUmodule* module, const void* image) {
    refuse_if(module == nullptr || image == nullptr);
    refuse_in_capture();
    *module = state().modules.add<CUmodule>(std::make_unique<Module>());
}

int blocks_per_processor(const Function& function, int block_size, size_t shared_bytes) {
    refuse_if(block_size <= 0 || block_size > static_cast<int>(MAX_THREADS));
    refuse_if(shared_bytes > static_cast<size_t>(function.max_dynamic_shared));
    const int by_threads = 2048 / ((block_size + 31) / 32 * 32);
    const int by_shared = static_cast<int>(228 * 1024 / (shared_bytes + 1024));
    return std::min({by_threads, by_shared, 32});
}

} // namespace

} // namespace stand_in

using namespace stand_in;

API cuModuleLoadData(CUmodule* module, const void* image) {
    return call(__func__, Needs::CONTEXT, [&] { load(module, image); });
}

API cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned, CUjit_option*, void**) {
    return call(__func__, Needs::CONTEXT, [&] { load(module, image); });
}

API cuModuleLoadFatBinary(CUmodule* module, const void* image) {
    return call(__func__, Needs::CONTEXT, [&] { load(module, image); });
}

API cuModuleUnload(CUmodule module) {
    return call(__func__, Needs::CONTEXT, [&] {
        refuse_in_capture();
        const Module& gone = state().modules.find(module);
        for (const auto& [name, function] : gone.functions) state().functions.remove(function);
        state().modules.remove(module);
    });
}

API cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
    return call(__func__, Needs::CONTEXT, [&] {
        refuse_if(function == nullptr || name == nullptr);
        *function = find_function(state().modules.find(module), name);
    });
}

API cuFuncSetAttribute(CUfunction function, CUfunction_attribute which, int value) {
    return call(__func__, Needs::CONTEXT, [&] {
        Function& changed = state().functions.find(function);
        if (which == CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT) return;
        refuse_if(which != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || value < 0 || value > MAX_SHARED);
        changed.max_dynamic_shared = value;
    });
}

API cuFuncGetAttribute(int* value, CUfunction_attribute which, CUfunction function) {
    return call(__func__, Needs::CONTEXT, [&] { *value = attribute(state().functions.find(function), which); });
}

API cuFuncSetCacheConfig(CUfunction function, CUfunc_cache) {
    return call(__func__, Needs::CONTEXT, [&] { state().functions.find(function); });
}

API cuFuncGetName(const char** name, CUfunction function) {
    return call(__func__, Needs::CONTEXT, [&] { *name = state().functions.find(function).kernel->name; });
}

API cuFuncGetParamInfo(CUfunction function, size_t index, size_t* offset, size_t* bytes) {
    return call(__func__, Needs::CONTEXT, [&] {
        const Kernel& kernel = *state().functions.find(function).kernel;
        refuse_if(index >= kernel.num_parameters);
        *offset = 0;
        // Numbers and pointers lie at multiples of their size.
        for (size_t i = 0; i <= index; i++) {
            const size_t size = kernel.parameters[i].bytes;
            *offset = (*offset + size - 1) / size * size;
            if (i < index) *offset += size;
            if (bytes != nullptr) *bytes = size;
        }
    });
}

API cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction function, int block_size,
                                                size_t shared_bytes) {
    return call(__func__, Needs::CONTEXT, [&] {
        *blocks = blocks_per_processor(state().functions.find(function), block_size, shared_bytes);
    });
}

API cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, CUfunction function, int block_size,
                                                         size_t shared_bytes, unsigned) {
    return call(__func__, Needs::CONTEXT, [&] {
        *blocks = blocks_per_processor(state().functions.find(function), block_size, shared_bytes);
    });
}

API cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                   unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream stream, void** parameters,
                   void** extra) {
    return call(__func__, Needs::CONTEXT, [&] {
        const CUlaunchConfig config{grid_x,  grid_y,       grid_z, block_x, block_y,
                                    block_z, shared_bytes, stream, nullptr, 0};
        launch(function, config, parameters, extra);
    });
}

API cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** parameters, void** extra) {
    return call(__func__, Needs::CONTEXT, [&] {
        refuse_if(config == nullptr);
        for (unsigned i = 0; i < config->numAttrs; i++) count_attribute(config->attrs[i].id);
        launch(function, *config, parameters, extra);
    });
}
