// Graphs: what was captured, done again and again. Nodes are done in the order in which they were recorded,
// which is one of those that their streams allow.
#include "state.h"

using namespace stand_in;

namespace {

// A graph that is launched in a stream: its nodes one after another, until one breaks the context.
void launch(const Graph& graph, Stream& stream) {
    if (stream.capture == nullptr) count_graph(graph.nodes.size());
    for (const Work& node : graph.nodes) {
        if (state().broken == CUDA_SUCCESS) submit(stream, node);
    }
}

void instantiate(CUgraphExec* executable, CUgraph graph) {
    refuse_if(executable == nullptr);
    *executable = state().executables.add<CUgraphExec>(std::make_unique<Graph>(state().graphs.find(graph)));
}

// Kernels may get other arguments and grids, but each node must stay what it was.
CUgraphExecUpdateResult update(Graph& executable, const Graph& graph) {
    if (executable.nodes.size() != graph.nodes.size()) return CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
    for (size_t i = 0; i < graph.nodes.size(); i++) {
        const Work &is = executable.nodes[i], &wanted = graph.nodes[i];
        if (is.type != wanted.type) return CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED;
        if (is.name != wanted.name) return CU_GRAPH_EXEC_UPDATE_ERROR_FUNCTION_CHANGED;
    }
    executable.nodes = graph.nodes;
    return CU_GRAPH_EXEC_UPDATE_SUCCESS;
}

const Work& node_of(CUgraphNode handle) {
    const auto* wanted = reinterpret_cast<const Work*>(handle);
    for (const Graph* graph : state().graphs.all()) {
        for (const Work& node : graph->nodes) {
            if (&node == wanted) return node;
        }
    }
    throw CUDA_ERROR_INVALID_VALUE;
}

} // namespace

API cuGraphInstantiateWithFlags(CUgraphExec* executable, CUgraph graph, unsigned long long) {
    return call(__func__, Needs::CONTEXT, [&] { instantiate(executable, graph); });
}

API cuGraphInstantiateWithParams(CUgraphExec* executable, CUgraph graph, CUDA_GRAPH_INSTANTIATE_PARAMS* params) {
    return call(__func__, Needs::CONTEXT, [&] {
        instantiate(executable, graph);
        params->result_out = CUDA_GRAPH_INSTANTIATE_SUCCESS;
        params->hErrNode_out = nullptr;
    });
}

API cuGraphUpload(CUgraphExec executable, CUstream stream) {
    return call(__func__, Needs::CONTEXT, [&] {
        state().executables.find(executable);
        stream_of(stream);
    });
}

API cuGraphLaunch(CUgraphExec executable, CUstream stream) {
    return call(__func__, Needs::CONTEXT, [&] { launch(state().executables.find(executable), stream_of(stream)); });
}

API cuGraphExecUpdate(CUgraphExec executable, CUgraph graph, CUgraphExecUpdateResultInfo* info) {
    return call(__func__, Needs::CONTEXT, [&] {
        const auto result = update(state().executables.find(executable), state().graphs.find(graph));
        if (info != nullptr) *info = {result, nullptr, nullptr};
        refuse_if(result != CU_GRAPH_EXEC_UPDATE_SUCCESS, CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
    });
}

API cuGraphExecDestroy(CUgraphExec executable) {
    return call(__func__, Needs::CONTEXT, [&] { state().executables.remove(executable); });
}

API cuGraphDestroy(CUgraph graph) {
    return call(__func__, Needs::CONTEXT, [&] { state().graphs.remove(graph); });
}

API cuGraphGetNodes(CUgraph graph, CUgraphNode* nodes, size_t* count) {
    return call(__func__, Needs::CONTEXT, [&] {
        Graph& asked = state().graphs.find(graph);
        refuse_if(count == nullptr);
        if (nodes != nullptr) {
            for (size_t i = 0; i < *count; i++) {
                nodes[i] = i < asked.nodes.size() ? reinterpret_cast<CUgraphNode>(&asked.nodes[i]) : nullptr;
            }
        }
        *count = asked.nodes.size();
    });
}

API cuGraphNodeGetType(CUgraphNode node, CUgraphNodeType* type) {
    return call(__func__, Needs::CONTEXT, [&] { *type = node_of(node).type; });
}
