// Rows by index: embeddings of tokens, and the hidden states that logits are wanted of.
#include "prelude.cuh"

// table: [num_rows, packs] of 16 bytes each. indices: [blocks]. out: [blocks, packs]. An index past the
// table's end, which the host cannot see, gives zeros.
extern "C" __global__ void __launch_bounds__(256)
    gather_rows(const uint4* table, const uint32_t* indices, uint4* out, int packs, uint32_t num_rows) {
    wait_for_dependencies();
    launch_dependents();
    const uint32_t index = indices[blockIdx.x];
    const uint4* from = table + static_cast<int64_t>(index) * packs;
    uint4* to = out + static_cast<int64_t>(blockIdx.x) * packs;
    for (int i = threadIdx.x; i < packs; i += blockDim.x) {
        to[i] = index < num_rows ? from[i] : make_uint4(0, 0, 0, 0);
    }
}
SCONCE_KERNEL(gather_rows)
