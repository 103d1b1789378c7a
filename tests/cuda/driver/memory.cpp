// Device memory is the host's. It begins as NaN; under STAND_IN_GUARD=1 it ends at a page that nobody may
// touch, and is gone for good once it is freed.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "state.h"

namespace stand_in {

namespace {

constexpr size_t PAGE = 4096, ALIGNMENT = 512, GUARDED_ALIGNMENT = 16;
constexpr int POISON = 0xff;

bool is_guarded() {
    static const bool guarded = setting("STAND_IN_GUARD", 0) != 0;
    return guarded;
}

size_t limit() {
    static const auto bytes = static_cast<size_t>(setting("STAND_IN_MEMORY", 2l << 30));
    return bytes;
}

size_t rounded(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

void* map_guarded(size_t bytes, Allocation& made) {
    const size_t room = rounded(bytes, PAGE);
    made.mapped_bytes = room + 2 * PAGE;
    made.mapped = mmap(nullptr, made.mapped_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (made.mapped == MAP_FAILED) return nullptr;
    auto* first = static_cast<unsigned char*>(made.mapped) + PAGE;
    if (mprotect(first, room, PROT_READ | PROT_WRITE) != 0) return nullptr;
    return first + room - rounded(bytes, GUARDED_ALIGNMENT);
}

void* allocate(size_t bytes, Memory kind) {
    State& s = state();
    refuse_if(bytes == 0);
    Allocation made{bytes, kind, nullptr, 0};
    const bool counts = kind == Memory::DEVICE;
    // Compared so that no size overflows.
    if (counts) refuse_if(bytes > limit() - s.device_bytes, CUDA_ERROR_OUT_OF_MEMORY);
    void* address = is_guarded() && counts ? map_guarded(bytes, made)
                                           : aligned_alloc(ALIGNMENT, rounded(bytes, ALIGNMENT));
    refuse_if(address == nullptr, CUDA_ERROR_OUT_OF_MEMORY);
    if (counts) {
        memset(address, POISON, bytes);
        s.device_bytes += bytes;
    }
    s.allocations.emplace(reinterpret_cast<uintptr_t>(address), made);
    return address;
}

void release(uintptr_t address, Memory kind) {
    State& s = state();
    const auto found = s.allocations.find(address);
    refuse_if(found == s.allocations.end() || found->second.kind != kind);
    const Allocation gone = found->second;
    s.allocations.erase(found);
    if (kind == Memory::DEVICE) s.device_bytes -= gone.bytes;
    if (gone.mapped != nullptr) {
        munmap(gone.mapped, gone.mapped_bytes);
    } else if (kind != Memory::REGISTERED) {
        free(reinterpret_cast<void*>(address));
    }
}

const Allocation* find(uintptr_t address, size_t bytes) {
    const auto& all = state().allocations;
    auto after = all.upper_bound(address);
    if (after == all.begin()) return nullptr;
    --after;
    const size_t offset = address - after->first;
    return offset <= after->second.bytes && bytes <= after->second.bytes - offset ? &after->second : nullptr;
}

void* pointer(CUdeviceptr address) { return reinterpret_cast<void*>(address); }

// A copy or a filling is checked when it is asked for, and once more when a graph does it.
Work memory_work(CUgraphNodeType type, const char* name, std::vector<std::pair<CUdeviceptr, size_t>> ranges,
                 std::function<void()> act) {
    for (const auto& [address, bytes] : ranges) check_device(address, bytes);
    return {type, name, [=] {
                for (const auto& [address, bytes] : ranges) {
                    if (bytes != 0 && !is_device(pointer(address), bytes)) {
                        fprintf(stderr, "stand-in: %s of a graph uses memory that was freed\n", name);
                        return static_cast<int>(ILLEGAL_ADDRESS);
                    }
                }
                act();
                return 0;
            }};
}

// What a graph copies from or to must stay where it is, so it must be pinned.
void check_host(const Stream& stream, const void* host, size_t bytes) {
    refuse_if(host == nullptr && bytes != 0);
    if (stream.capture == nullptr || is_pinned(host, bytes)) return;
    stream.capture->valid = false;
    throw CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

void to_device(Stream& stream, CUdeviceptr to, const void* from, size_t bytes) {
    check_host(stream, from, bytes);
    submit(stream, memory_work(CU_GRAPH_NODE_TYPE_MEMCPY, "memcpy HtoD", {{to, bytes}},
                               [=] { memcpy(pointer(to), from, bytes); }));
}

void to_host(Stream& stream, void* to, CUdeviceptr from, size_t bytes) {
    check_host(stream, to, bytes);
    submit(stream, memory_work(CU_GRAPH_NODE_TYPE_MEMCPY, "memcpy DtoH", {{from, bytes}},
                               [=] { memcpy(to, pointer(from), bytes); }));
}

void within_device(Stream& stream, CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    submit(stream, memory_work(CU_GRAPH_NODE_TYPE_MEMCPY, "memcpy DtoD", {{to, bytes}, {from, bytes}},
                               [=] { memmove(pointer(to), pointer(from), bytes); }));
}

void copy(Stream& stream, CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    const bool is_to = is_device(pointer(to), bytes), is_from = is_device(pointer(from), bytes);
    if (is_to && is_from) return within_device(stream, to, from, bytes);
    if (is_to) return to_device(stream, to, pointer(from), bytes);
    if (is_from) return to_host(stream, pointer(to), from, bytes);
    throw CUDA_ERROR_INVALID_VALUE;
}

template <class T> void fill(Stream& stream, CUdeviceptr to, T value, size_t count) {
    refuse_if(to % sizeof(T) != 0);
    submit(stream, memory_work(CU_GRAPH_NODE_TYPE_MEMSET, "memset", {{to, count * sizeof(T)}},
                               [=] { std::fill_n(static_cast<T*>(pointer(to)), count, value); }));
}

// The default stream, for calls that wait for it.
Stream& legacy() {
    refuse_in_capture();
    refuse_legacy_in_capture();
    return stream_of(CU_STREAM_LEGACY);
}

void allocate_device(CUdeviceptr* address, size_t bytes) {
    refuse_if(address == nullptr);
    *address = reinterpret_cast<CUdeviceptr>(allocate(bytes, Memory::DEVICE));
}

void free_device(CUdeviceptr address) {
    if (address != 0) release(static_cast<uintptr_t>(address), Memory::DEVICE);
}

// Whatever the mode: allocations of a graph's own are nothing we use.
void refuse_captured(const Stream& stream) {
    if (stream.capture == nullptr) return;
    stream.capture->valid = false;
    throw CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

} // namespace

bool is_device(const void* address, size_t bytes) {
    const Allocation* found = find(reinterpret_cast<uintptr_t>(address), bytes);
    return found != nullptr && found->kind == Memory::DEVICE;
}

bool is_pinned(const void* address, size_t bytes) {
    const Allocation* found = find(reinterpret_cast<uintptr_t>(address), bytes);
    return found != nullptr && found->kind != Memory::DEVICE;
}

void check_device(CUdeviceptr address, size_t bytes) {
    refuse_if(bytes != 0 && !is_device(pointer(address), bytes));
}

} // namespace stand_in

using namespace stand_in;

API cuMemGetInfo(size_t* free, size_t* total) {
    return call(__func__, Needs::CONTEXT, [&] {
        *total = limit();
        *free = limit() - state().device_bytes;
    });
}

API cuMemAlloc(CUdeviceptr* address, size_t bytes) {
    return call(__func__, Needs::CONTEXT, [&] {
        refuse_in_capture();
        allocate_device(address, bytes);
    });
}

API cuMemFree(CUdeviceptr address) {
    return call(__func__, Needs::CONTEXT, [&] {
        refuse_in_capture();
        free_device(address);
    });
}

API cuMemAllocAsync(CUdeviceptr* address, size_t bytes, CUstream stream) {
    return call(__func__, Needs::CONTEXT, [&] {
        refuse_captured(stream_of(stream));
        allocate_device(address, bytes);
    });
}

API cuMemFreeAsync(CUdeviceptr address, CUstream stream) {
    return call(__func__, Needs::CONTEXT, [&] {
        refuse_captured(stream_of(stream));
        free_device(address);
    });
}

API cuMemHostAlloc(void** address, size_t bytes, unsigned) {
    return call(__func__, Needs::CONTEXT, [&] {
        refuse_in_capture();
        refuse_if(address == nullptr);
        *address = allocate(bytes, Memory::HOST);
    });
}

API cuMemAllocHost(void** address, size_t bytes) {
    return call(__func__, Needs::CONTEXT, [&] {
        refuse_in_capture();
        refuse_if(address == nullptr);
        *address = allocate(bytes, Memory::HOST);
    });
}

API cuMemFreeHost(void* address) {
    return call(__func__, Needs::CONTEXT, [&] {
        refuse_in_capture();
        release(reinterpret_cast<uintptr_t>(address), Memory::HOST);
    });
}

API cuMemHostRegister(void* address, size_t bytes, unsigned) {
    return call(__func__, Needs::CONTEXT, [&] {
        refuse_in_capture();
        refuse_if(address == nullptr || bytes == 0);
        const Allocation made{bytes, Memory::REGISTERED, nullptr, 0};
        const bool is_new = state().allocations.emplace(reinterpret_cast<uintptr_t>(address), made).second;
        refuse_if(!is_new, CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    });
}

API cuMemHostUnregister(void* address) {
    return call(__func__, Needs::CONTEXT, [&] {
        refuse_in_capture();
        release(reinterpret_cast<uintptr_t>(address), Memory::REGISTERED);
    });
}

API cuMemHostGetDevicePointer(CUdeviceptr* device, void* host, unsigned) {
    return call(__func__, Needs::CONTEXT, [&] {
        refuse_if(!is_pinned(host, 1));
        *device = reinterpret_cast<CUdeviceptr>(host);
    });
}

API cuMemcpyHtoD(CUdeviceptr to, const void* from, size_t bytes) {
    return call(__func__, Needs::CONTEXT, [&] { to_device(legacy(), to, from, bytes); });
}

API cuMemcpyDtoH(void* to, CUdeviceptr from, size_t bytes) {
    return call(__func__, Needs::CONTEXT, [&] { to_host(legacy(), to, from, bytes); });
}

API cuMemcpyDtoD(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    return call(__func__, Needs::CONTEXT, [&] { within_device(legacy(), to, from, bytes); });
}

API cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    return call(__func__, Needs::CONTEXT, [&] { copy(legacy(), to, from, bytes); });
}

API cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
    return call(__func__, Needs::CONTEXT, [&] { to_device(stream_of(stream), to, from, bytes); });
}

API cuMemcpyDtoHAsync(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
    return call(__func__, Needs::CONTEXT, [&] { to_host(stream_of(stream), to, from, bytes); });
}

API cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    return call(__func__, Needs::CONTEXT, [&] { within_device(stream_of(stream), to, from, bytes); });
}

API cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    return call(__func__, Needs::CONTEXT, [&] { copy(stream_of(stream), to, from, bytes); });
}

API cuMemcpyPeerAsync(CUdeviceptr to, CUcontext, CUdeviceptr from, CUcontext, size_t bytes, CUstream stream) {
    return call(__func__, Needs::CONTEXT, [&] { within_device(stream_of(stream), to, from, bytes); });
}

API cuMemsetD8(CUdeviceptr to, unsigned char value, size_t count) {
    return call(__func__, Needs::CONTEXT, [&] { fill(legacy(), to, value, count); });
}

API cuMemsetD16(CUdeviceptr to, unsigned short value, size_t count) {
    return call(__func__, Needs::CONTEXT, [&] { fill(legacy(), to, value, count); });
}

API cuMemsetD32(CUdeviceptr to, unsigned value, size_t count) {
    return call(__func__, Needs::CONTEXT, [&] { fill(legacy(), to, value, count); });
}

API cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, CUstream stream) {
    return call(__func__, Needs::CONTEXT, [&] { fill(stream_of(stream), to, value, count); });
}

API cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t count, CUstream stream) {
    return call(__func__, Needs::CONTEXT, [&] { fill(stream_of(stream), to, value, count); });
}

API cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, CUstream stream) {
    return call(__func__, Needs::CONTEXT, [&] { fill(stream_of(stream), to, value, count); });
}
