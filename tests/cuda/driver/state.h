// The stand-in driver's state: what a process has made of contexts, streams, memory and graphs. One lock
// guards it all, also while a kernel runs: work is done at once, in the order in which it is asked for.
#pragma once

#pragma GCC visibility push(default)
#include <cuda.h>
#pragma GCC visibility pop

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_set>
#include <vector>

#include "../runtime.h"

#define API extern "C" __attribute__((visibility("default"))) CUresult

namespace stand_in {

// One piece of a stream's work, done at once or kept in a graph.
struct Work {
    CUgraphNodeType type;
    // By which it is counted, and recognised when a graph is updated.
    std::string name;
    // Returns 0 or the CUDA error that ends the context.
    std::function<int()> run;
};

struct Context {
    int device;
    unsigned flags;
    unsigned num_retained;
};

struct Graph {
    std::vector<Work> nodes;
};

struct Stream;

// What is being recorded from one stream, and from those that joined it.
struct Capture {
    Stream* origin;
    CUstreamCaptureMode mode;
    unsigned long long id;
    size_t thread;
    bool valid = true;
    std::unique_ptr<Graph> graph;
};

// For each stream of a capture, how much of its work is known to come before.
using Clock = std::map<Stream*, size_t>;

struct Stream {
    Context* context;
    unsigned flags;
    int priority;
    std::shared_ptr<Capture> capture;
    Clock before;
};

struct Event {
    unsigned flags;
    bool recorded = false;
    std::chrono::steady_clock::time_point at;
    std::weak_ptr<Capture> capture;
    unsigned long long capture_id = 0;
    Clock before;
};

struct Function {
    const Kernel* kernel;
    int max_dynamic_shared;
};

struct Module {
    std::map<std::string, CUfunction> functions;
};

enum class Memory { DEVICE, HOST, REGISTERED };

struct Allocation {
    size_t bytes;
    Memory kind;
    void* mapped;
    size_t mapped_bytes;
};

// Handles that were given out and are still good.
template <class T> class Handles {
public:
    template <class Handle> Handle add(std::unique_ptr<T> made) {
        T* pointer = made.release();
        known.insert(pointer);
        return reinterpret_cast<Handle>(pointer);
    }
    T& find(const void* handle, CUresult otherwise = CUDA_ERROR_INVALID_HANDLE) const {
        T* pointer = static_cast<T*>(const_cast<void*>(handle));
        if (known.count(pointer) == 0) throw otherwise;
        return *pointer;
    }
    void remove(const void* handle, CUresult otherwise = CUDA_ERROR_INVALID_HANDLE) {
        T* pointer = &find(handle, otherwise);
        known.erase(pointer);
        delete pointer;
    }
    const std::unordered_set<T*>& all() const { return known; }

private:
    std::unordered_set<T*> known;
};

struct State {
    std::recursive_mutex lock;
    bool initialised = false;
    // What every later call answers, once a kernel has failed.
    CUresult broken = CUDA_SUCCESS;
    std::vector<std::unique_ptr<Context>> primary;
    Handles<Context> contexts;
    Handles<Stream> streams;
    Handles<Event> events;
    Handles<Graph> graphs, executables;
    Handles<Module> modules;
    Handles<Function> functions;
    std::map<uintptr_t, Allocation> allocations;
    size_t device_bytes = 0;
    unsigned long long num_captures = 0;
};

State& state();
int num_devices();

// What a driver function needs before it may do its work.
enum class Needs { NOTHING, INIT, CONTEXT };

// Counts a call, and throws the error it was told to answer, or must.
void enter(const char* name, Needs needs);
// Counts a kernel's launch; returns the error that it is told to end with.
int count_launch(const std::string& kernel);
void count_graph(size_t num_nodes);
void count_attribute(int launch_attribute);

template <class Body> CUresult call(const char* name, Needs needs, Body body) {
    const std::lock_guard hold(state().lock);
    try {
        enter(name, needs);
        body();
        return CUDA_SUCCESS;
    } catch (CUresult code) {
        return code;
    }
}

inline void refuse_if(bool wrong, CUresult code = CUDA_ERROR_INVALID_VALUE) {
    if (wrong) throw code;
}

Context& current_context();
Stream& stream_of(CUstream handle);

// Does work of a stream, or records it where the stream is captured.
void submit(Stream& stream, Work work);
// Does work whose failure breaks the context.
void perform(const Work& work);
// Refuses what must not be called while a stream is captured, and spoils the capture.
void refuse_in_capture();
// The same for what waits for, or works in, the default stream.
void refuse_legacy_in_capture();
// The same for what waits for all streams.
void refuse_any_capture();

void check_device(CUdeviceptr address, size_t bytes);
bool is_device(const void* address, size_t bytes);
bool is_pinned(const void* address, size_t bytes);

} // namespace stand_in
