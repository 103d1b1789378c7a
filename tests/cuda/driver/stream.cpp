// Streams, events, and what is recorded of them while they are captured.
#include <thread>

#include "state.h"

namespace stand_in {

namespace {

thread_local CUstreamCaptureMode own_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;

size_t this_thread() { return std::hash<std::thread::id>()(std::this_thread::get_id()); }

[[noreturn]] void spoil(Capture& capture, CUresult code) {
    capture.valid = false;
    throw code;
}

void merge(Clock& into, const Clock& other) {
    for (const auto& [stream, count] : other) into[stream] = std::max(into[stream], count);
}

size_t known(const Clock& clock, Stream* stream) {
    const auto found = clock.find(stream);
    return found == clock.end() ? 0 : found->second;
}

void leave_capture(const std::shared_ptr<Capture>& capture) {
    for (Stream* stream : state().streams.all()) {
        if (stream->capture != capture) continue;
        stream->capture.reset();
        stream->before.clear();
    }
}

// Whether all that other streams recorded comes before what the origin recorded last.
bool is_joined(const Stream& origin) {
    for (Stream* stream : state().streams.all()) {
        if (stream == &origin || stream->capture != origin.capture) continue;
        if (known(stream->before, stream) > known(origin.before, stream)) return false;
    }
    return true;
}

std::unique_ptr<Graph> end_capture(Stream& stream) {
    const std::shared_ptr<Capture> capture = stream.capture;
    refuse_if(capture == nullptr, CUDA_ERROR_ILLEGAL_STATE);
    if (capture->origin != &stream) spoil(*capture, CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
    const bool moves = capture->mode == CU_STREAM_CAPTURE_MODE_RELAXED;
    if (!moves && capture->thread != this_thread()) spoil(*capture, CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
    const bool joined = is_joined(stream);
    leave_capture(capture);
    refuse_if(!capture->valid, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    refuse_if(!joined, CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    return std::move(capture->graph);
}

CUstreamCaptureStatus status(const Stream& stream) {
    if (stream.capture == nullptr) return CU_STREAM_CAPTURE_STATUS_NONE;
    return stream.capture->valid ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_INVALIDATED;
}

void begin_capture(CUstream handle, CUstreamCaptureMode mode) {
    Stream& stream = stream_of(handle);
    refuse_if(handle == nullptr || handle == CU_STREAM_LEGACY, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    refuse_if(stream.capture != nullptr, CUDA_ERROR_ILLEGAL_STATE);
    auto capture = std::make_shared<Capture>();
    capture->origin = &stream;
    capture->mode = mode;
    capture->id = ++state().num_captures;
    capture->thread = this_thread();
    capture->graph = std::make_unique<Graph>();
    stream.capture = std::move(capture);
    stream.before.clear();
}

// Waiting for a stream means to wait for work that a capture does not do.
void synchronize(const Stream& stream) {
    if (stream.capture != nullptr) spoil(*stream.capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    refuse_in_capture();
}

void wait(Stream& stream, const Event& event) {
    const std::shared_ptr<Capture> from = event.capture.lock();
    if (from == nullptr) {
        if (stream.capture != nullptr && event.recorded) {
            spoil(*stream.capture, CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
        }
        return;
    }
    if (stream.capture == nullptr) {
        stream.capture = from;
        stream.before.clear();
    }
    if (stream.capture != from) spoil(*stream.capture, CUDA_ERROR_STREAM_CAPTURE_MERGE);
    merge(stream.before, event.before);
}

void record(Event& event, const Stream& stream) {
    event.recorded = true;
    event.at = std::chrono::steady_clock::now();
    event.capture = stream.capture;
    event.capture_id = stream.capture == nullptr ? 0 : stream.capture->id;
    event.before = stream.before;
}

void create(CUstream* stream, unsigned flags, int priority) {
    refuse_if(stream == nullptr || flags > CU_STREAM_NON_BLOCKING);
    auto made = std::make_unique<Stream>();
    made->context = &current_context();
    made->flags = flags;
    made->priority = priority;
    *stream = state().streams.add<CUstream>(std::move(made));
}

Stream default_streams[2] = {};

} // namespace

Stream& stream_of(CUstream handle) {
    if (handle == nullptr || handle == CU_STREAM_LEGACY) return default_streams[0];
    if (handle == CU_STREAM_PER_THREAD) return default_streams[1];
    return state().streams.find(handle);
}

void perform(const Work& work) {
    refuse_if(state().broken != CUDA_SUCCESS, state().broken);
    // The call that asks for the work succeeds, as the device does it later.
    state().broken = static_cast<CUresult>(work.run());
}

void submit(Stream& stream, Work work) {
    if (&stream == &default_streams[0]) refuse_legacy_in_capture();
    if (stream.capture == nullptr) {
        perform(work);
        return;
    }
    refuse_if(!stream.capture->valid, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    stream.before[&stream]++;
    stream.capture->graph->nodes.push_back(std::move(work));
}

void refuse_in_capture() {
    if (own_mode == CU_STREAM_CAPTURE_MODE_RELAXED) return;
    for (Stream* stream : state().streams.all()) {
        if (stream->capture == nullptr) continue;
        Capture& capture = *stream->capture;
        const bool is_own = capture.mode == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL && capture.thread == this_thread();
        if (is_own || capture.mode == CU_STREAM_CAPTURE_MODE_GLOBAL) {
            spoil(capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
    }
}

void refuse_legacy_in_capture() {
    for (Stream* stream : state().streams.all()) {
        if (stream->capture != nullptr && (stream->flags & CU_STREAM_NON_BLOCKING) == 0) {
            spoil(*stream->capture, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
        }
    }
}

void refuse_any_capture() {
    for (Stream* stream : state().streams.all()) {
        if (stream->capture != nullptr) spoil(*stream->capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    }
}

} // namespace stand_in

using namespace stand_in;

API cuStreamCreateWithPriority(CUstream* stream, unsigned flags, int priority) {
    return call(__func__, Needs::CONTEXT, [&] { create(stream, flags, priority); });
}

API cuStreamCreate(CUstream* stream, unsigned flags) {
    return call(__func__, Needs::CONTEXT, [&] { create(stream, flags, 0); });
}

API cuStreamDestroy(CUstream stream) {
    return call(__func__, Needs::CONTEXT, [&] {
        if (const auto capture = state().streams.find(stream).capture) {
            capture->valid = false;
            if (capture->origin == reinterpret_cast<Stream*>(stream)) leave_capture(capture);
        }
        state().streams.remove(stream);
    });
}

API cuStreamSynchronize(CUstream stream) {
    return call(__func__, Needs::CONTEXT, [&] {
        synchronize(stream_of(stream));
        if (stream == nullptr || stream == CU_STREAM_LEGACY) refuse_legacy_in_capture();
    });
}

API cuStreamQuery(CUstream stream) {
    return call(__func__, Needs::CONTEXT, [&] { synchronize(stream_of(stream)); });
}

API cuStreamWaitEvent(CUstream stream, CUevent event, unsigned) {
    return call(__func__, Needs::CONTEXT, [&] { wait(stream_of(stream), state().events.find(event)); });
}

API cuStreamGetPriority(CUstream stream, int* priority) {
    return call(__func__, Needs::CONTEXT, [&] { *priority = stream_of(stream).priority; });
}

API cuStreamGetFlags(CUstream stream, unsigned* flags) {
    return call(__func__, Needs::CONTEXT, [&] { *flags = stream_of(stream).flags; });
}

API cuStreamGetCtx(CUstream stream, CUcontext* context) {
    return call(__func__, Needs::CONTEXT, [&] {
        Context* own = stream_of(stream).context;
        *context = reinterpret_cast<CUcontext>(own != nullptr ? own : &current_context());
    });
}

API cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode mode) {
    return call(__func__, Needs::CONTEXT, [&] { begin_capture(stream, mode); });
}

API cuStreamEndCapture(CUstream stream, CUgraph* graph) {
    return call(__func__, Needs::CONTEXT, [&] {
        refuse_if(graph == nullptr);
        *graph = nullptr;
        *graph = state().graphs.add<CUgraph>(end_capture(stream_of(stream)));
    });
}

API cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus* to) {
    return call(__func__, Needs::CONTEXT, [&] { *to = status(stream_of(stream)); });
}

API cuStreamGetCaptureInfo(CUstream stream, CUstreamCaptureStatus* to, cuuint64_t* id, CUgraph* graph,
                           const CUgraphNode** dependencies, const CUgraphEdgeData** edges, size_t* num_dependencies) {
    return call(__func__, Needs::CONTEXT, [&] {
        const Stream& from = stream_of(stream);
        *to = status(from);
        if (id != nullptr) *id = from.capture ? from.capture->id : 0;
        if (graph != nullptr) *graph = reinterpret_cast<CUgraph>(from.capture ? from.capture->graph.get() : nullptr);
        if (dependencies != nullptr) *dependencies = nullptr;
        if (edges != nullptr) *edges = nullptr;
        if (num_dependencies != nullptr) *num_dependencies = 0;
    });
}

extern "C" __attribute__((visibility("default"))) CUresult
cuStreamGetCaptureInfo_v2(CUstream stream, CUstreamCaptureStatus* to, cuuint64_t* id, CUgraph* graph,
                          const CUgraphNode** dependencies, size_t* num_dependencies) {
    return cuStreamGetCaptureInfo(stream, to, id, graph, dependencies, nullptr, num_dependencies);
}

API cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode* mode) {
    return call(__func__, Needs::INIT, [&] { std::swap(own_mode, *mode); });
}

API cuEventCreate(CUevent* event, unsigned flags) {
    return call(__func__, Needs::CONTEXT, [&] {
        auto made = std::make_unique<Event>();
        made->flags = flags;
        *event = state().events.add<CUevent>(std::move(made));
    });
}

API cuEventDestroy(CUevent event) {
    return call(__func__, Needs::CONTEXT, [&] { state().events.remove(event); });
}

API cuEventRecord(CUevent event, CUstream stream) {
    return call(__func__, Needs::CONTEXT, [&] { record(state().events.find(event), stream_of(stream)); });
}

API cuEventSynchronize(CUevent event) {
    return call(__func__, Needs::CONTEXT, [&] {
        const Event& awaited = state().events.find(event);
        if (const auto capture = awaited.capture.lock()) capture->valid = false;
        refuse_if(awaited.capture_id != 0, CUDA_ERROR_CAPTURED_EVENT);
        refuse_in_capture();
    });
}

API cuEventQuery(CUevent event) {
    return call(__func__, Needs::CONTEXT, [&] {
        const Event& asked = state().events.find(event);
        if (const auto capture = asked.capture.lock()) capture->valid = false;
        refuse_if(asked.capture_id != 0, CUDA_ERROR_CAPTURED_EVENT);
        refuse_in_capture();
    });
}

API cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end) {
    return call(__func__, Needs::CONTEXT, [&] {
        const Event &from = state().events.find(start), &to = state().events.find(end);
        refuse_if(!from.recorded || !to.recorded || from.capture_id != 0 || to.capture_id != 0, CUDA_ERROR_INVALID_HANDLE);
        refuse_if(((from.flags | to.flags) & CU_EVENT_DISABLE_TIMING) != 0, CUDA_ERROR_INVALID_HANDLE);
        *milliseconds = std::chrono::duration<float, std::milli>(to.at - from.at).count();
    });
}

#undef cuEventElapsedTime
API cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end) {
    return cuEventElapsedTime_v2(milliseconds, start, end);
}

API cuLaunchHostFunc(CUstream stream, CUhostFn function, void* data) {
    return call(__func__, Needs::CONTEXT, [&] {
        submit(stream_of(stream), {CU_GRAPH_NODE_TYPE_HOST, "host", [=] {
                                       function(data);
                                       return 0;
                                   }});
    });
}
