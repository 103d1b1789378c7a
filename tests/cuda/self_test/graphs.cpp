// Capture and replay, and what must not be done meanwhile.
#include "check.h"

static CUstream new_stream(unsigned flags = CU_STREAM_NON_BLOCKING) {
    CUstream stream;
    OK(cuStreamCreate(&stream, flags));
    return stream;
}

static CUgraph captured(CUstream stream, float* host, const Buffer<float>& a, const Buffer<float>& b,
                        CUdeviceptr out) {
    CUgraph graph;
    OK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    OK(cuMemcpyHtoDAsync(a.address, host, 4 * sizeof(float), stream));
    OK(launch_in(stream, "add", {1, 4}, a.address, b.address, out, 4));
    OK(cuMemcpyDtoHAsync(host + 4, out, 4 * sizeof(float), stream));
    OK(cuStreamEndCapture(stream, &graph));
    return graph;
}

TEST(graphs_do_again_what_was_captured) {
    const CUstream stream = new_stream();
    float* host;
    OK(cuMemAllocHost(reinterpret_cast<void**>(&host), 8 * sizeof(float)));
    Buffer<float> a(4), b({1, 2, 3, 4}), out(4);
    stand_in_reset();
    const CUgraph graph = captured(stream, host, a, b, out.address);
    // Captured is not done.
    EXPECT(std::isnan(out.get()[0]));
    EXPECT_IS(stand_in_count("kernel:add"), 0ull);
    CUgraphExec executable;
    OK(cuGraphInstantiate(&executable, graph, 0));
    OK(cuGraphDestroy(graph));
    for (int round = 1; round <= 3; round++) {
        for (int i = 0; i < 4; i++) host[i] = static_cast<float>(round * 10);
        OK(cuGraphLaunch(executable, stream));
        OK(cuStreamSynchronize(stream));
        for (int i = 0; i < 4; i++) EXPECT_IS(host[4 + i], static_cast<float>(round * 10 + i + 1));
    }
    EXPECT_IS(stand_in_count("kernel:add"), 3ull);
    EXPECT_IS(stand_in_count("graph_nodes"), 3ull);
    EXPECT_IS(stand_in_count("cuGraphLaunch"), 3ull);
    OK(cuGraphExecDestroy(executable));
    EXPECT_IS(cuGraphLaunch(executable, stream), CUDA_ERROR_INVALID_HANDLE);
    OK(cuMemFreeHost(host));
    OK(cuStreamDestroy(stream));
}

TEST(graphs_can_be_updated_where_nodes_stay_the_same) {
    const CUstream stream = new_stream();
    float* host;
    OK(cuMemAllocHost(reinterpret_cast<void**>(&host), 8 * sizeof(float)));
    Buffer<float> a(4), b({1, 2, 3, 4}), out(4), other({7, 7, 7, 7});
    CUgraphExec executable;
    OK(cuGraphInstantiate(&executable, captured(stream, host, a, b, out.address), 0));
    CUgraphExecUpdateResultInfo info;
    OK(cuGraphExecUpdate(executable, captured(stream, host, a, other, out.address), &info));
    host[0] = 1;
    OK(cuGraphLaunch(executable, stream));
    EXPECT_IS(host[4], 8.0f);
    OK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    OK(launch_in(stream, "add", {1, 4}, a.address, b.address, out.address, 4));
    CUgraph graph;
    OK(cuStreamEndCapture(stream, &graph));
    EXPECT_IS(cuGraphExecUpdate(executable, graph, &info), CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
    EXPECT_IS(info.result, CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED);
    OK(cuMemFreeHost(host));
}

TEST(graphs_whose_memory_was_freed_fail) {
    const CUstream stream = new_stream();
    CUdeviceptr freed;
    OK(cuMemAlloc(&freed, 64));
    OK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    OK(cuMemsetD8Async(freed, 0, 64, stream));
    CUgraph graph;
    CUgraphExec executable;
    OK(cuStreamEndCapture(stream, &graph));
    OK(cuGraphInstantiate(&executable, graph, 0));
    OK(cuGraphLaunch(executable, stream));
    OK(cuMemFree(freed));
    OK(cuGraphLaunch(executable, stream));
    EXPECT_IS(cuStreamSynchronize(stream), CUDA_ERROR_ILLEGAL_ADDRESS);
    stand_in_revive();
}

// Begins a capture, does what spoils it, and expects both to be refused.
static void check_refused(CUresult wanted, unsigned flags, CUresult (*act)(CUstream)) {
    const CUstream stream = new_stream(flags);
    OK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    EXPECT_IS(act(stream), wanted);
    CUstreamCaptureStatus status;
    OK(cuStreamIsCapturing(stream, &status));
    EXPECT_IS(status, CU_STREAM_CAPTURE_STATUS_INVALIDATED);
    CUgraph graph;
    EXPECT_IS(cuStreamEndCapture(stream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    OK(cuStreamIsCapturing(stream, &status));
    EXPECT_IS(status, CU_STREAM_CAPTURE_STATUS_NONE);
    OK(cuStreamDestroy(stream));
}

static CUdeviceptr kept;
static CUevent kept_event;

TEST(capture_refuses_what_waits_or_allocates) {
    OK(cuMemAlloc(&kept, 64));
    OK(cuEventCreate(&kept_event, CU_EVENT_DISABLE_TIMING));
    OK(cuEventRecord(kept_event, nullptr));
    const auto refused = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    const unsigned own = CU_STREAM_NON_BLOCKING;
    check_refused(refused, own, [](CUstream stream) { return cuStreamSynchronize(stream); });
    check_refused(refused, own, [](CUstream stream) { return cuStreamQuery(stream); });
    check_refused(refused, own, [](CUstream) { return cuCtxSynchronize(); });
    check_refused(refused, own, [](CUstream) { return cuMemAlloc(&kept, 64); });
    check_refused(refused, own, [](CUstream) { return cuMemFree(kept); });
    check_refused(refused, own, [](CUstream stream) { return cuMemAllocAsync(&kept, 64, stream); });
    check_refused(refused, own, [](CUstream) { return cuMemsetD8(kept, 0, 64); });
    check_refused(refused, own, [](CUstream) {
        char pageable[64];
        return cuMemcpyDtoH(pageable, kept, 64);
    });
    check_refused(refused, own, [](CUstream stream) {
        char pageable[64];
        return cuMemcpyDtoHAsync(pageable, kept, 64, stream);
    });
    check_refused(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, CU_STREAM_DEFAULT,
                  [](CUstream) { return cuMemsetD8Async(kept, 0, 64, nullptr); });
    check_refused(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, own,
                  [](CUstream stream) { return cuStreamWaitEvent(stream, kept_event, 0); });
    OK(cuMemFree(kept));
}

static CUgraph fork_and_join(CUstream first, CUstream second, bool joins, CUresult wanted) {
    CUevent forked, joined;
    OK(cuEventCreate(&forked, 0));
    OK(cuEventCreate(&joined, 0));
    CUdeviceptr address;
    OK(cuMemAlloc(&address, 64));
    OK(cuStreamBeginCapture(first, CU_STREAM_CAPTURE_MODE_GLOBAL));
    OK(cuEventRecord(forked, first));
    OK(cuStreamWaitEvent(second, forked, 0));
    OK(cuMemsetD8Async(address, 0, 64, second));
    OK(cuEventRecord(joined, second));
    if (joins) OK(cuStreamWaitEvent(first, joined, 0));
    CUgraph graph = nullptr;
    EXPECT_IS(cuStreamEndCapture(first, &graph), wanted);
    EXPECT_IS(cuEventSynchronize(joined), CUDA_ERROR_CAPTURED_EVENT);
    return graph;
}

TEST(captures_fork_and_join) {
    const CUstream first = new_stream(), second = new_stream();
    fork_and_join(first, second, false, CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    const CUgraph graph = fork_and_join(first, second, true, CUDA_SUCCESS);
    size_t count = 0;
    OK(cuGraphGetNodes(graph, nullptr, &count));
    EXPECT_IS(count, 1ull);
    CUgraphNode node;
    CUgraphNodeType type;
    OK(cuGraphGetNodes(graph, &node, &count));
    OK(cuGraphNodeGetType(node, &type));
    EXPECT_IS(type, CU_GRAPH_NODE_TYPE_MEMSET);
    OK(cuStreamSynchronize(second));
}

TEST(kernels_in_graphs_fail_for_good) {
    const CUstream stream = new_stream();
    Buffer<float> out(4);
    OK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    OK(launch_in(stream, "writes_at", {1, 1}, out.address, 0ll));
    OK(launch_in(stream, "writes_at", {1, 1}, out.address, 1ll << 40));
    OK(launch_in(stream, "writes_at", {1, 1}, out.address, 1ll));
    CUgraph graph;
    CUgraphExec executable;
    OK(cuStreamEndCapture(stream, &graph));
    OK(cuGraphInstantiate(&executable, graph, 0));
    OK(cuGraphLaunch(executable, stream));
    EXPECT_IS(cuGraphLaunch(executable, stream), CUDA_ERROR_ILLEGAL_ADDRESS);
    stand_in_revive();
    EXPECT_IS(out.get()[0], 1.0f);
    EXPECT(std::isnan(out.get()[1]));
}

// Programmatic dependent launch: also in graphs, a kernel must wait for those before it in every thread.
TEST(early_launches_must_wait) {
    const CUstream stream = new_stream();
    Buffer<float> out(2);
    const auto launch_early = [&](const char* name) {
        CUlaunchAttribute attribute{};
        attribute.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        attribute.value.programmaticStreamSerializationAllowed = 1;
        const CUlaunchConfig config{2, 1, 1, 64, 1, 1, 0, stream, &attribute, 1};
        void* list[] = {&out.address};
        return cuLaunchKernelEx(&config, function(name), list, nullptr);
    };
    const auto outcome_in_graph = [&](const char* name) {
        OK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
        OK(launch_early(name));
        CUgraph graph;
        CUgraphExec executable;
        OK(cuStreamEndCapture(stream, &graph));
        OK(cuGraphInstantiate(&executable, graph, 0));
        OK(cuGraphLaunch(executable, stream));
        const CUresult ended = cuStreamSynchronize(stream);
        stand_in_revive();
        return ended;
    };
    OK(outcome_in_graph("waits_for_those_before"));
    EXPECT_IS(out.get()[1], 1.0f);
    EXPECT_IS(outcome_in_graph("waits_in_some_threads"), CUDA_ERROR_LAUNCH_FAILED);
    EXPECT_IS(outcome_in_graph("lets_dependents_begin_too_early"), CUDA_ERROR_LAUNCH_FAILED);
    OK(outcome("waits_in_some_threads", {2, 64}, out.address));
}

TEST(events_tell_time) {
    CUevent start, end;
    OK(cuEventCreate(&start, 0));
    OK(cuEventCreate(&end, 0));
    OK(cuEventRecord(start, nullptr));
    OK(cuEventRecord(end, nullptr));
    OK(cuEventQuery(end));
    float milliseconds = -1.0f;
    OK(cuEventElapsedTime(&milliseconds, start, end));
    EXPECT(milliseconds >= 0.0f);
    OK(cuEventDestroy(start));
    EXPECT_IS(cuEventElapsedTime(&milliseconds, start, end), CUDA_ERROR_INVALID_HANDLE);
}
