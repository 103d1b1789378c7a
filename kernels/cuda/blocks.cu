// Blocks of the cache: copies between them, and what changes in the tables that name them.
#include "prelude.cuh"

// copies: their number, then pairs of blocks, from and to, which are performed in order. buffers: the
// cache's, each an array of blocks. A thread has one place of the blocks of one buffer, and copies it for
// each pair: so a copy sees those before it.
extern "C" __global__ void __launch_bounds__(256)
    copy_blocks(const uint64_t* buffers, const uint32_t* copies, uint32_t num_blocks, uint32_t packs,
                uint32_t limit) {
    wait_for_dependencies();
    const uint32_t at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= packs) return;
    auto* buffer = reinterpret_cast<uint4*>(buffers[blockIdx.y]);
    const uint32_t count = min(copies[0], limit);
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t from = copies[1 + 2 * i], to = copies[2 + 2 * i];
        if (from >= num_blocks || to >= num_blocks) continue;
        buffer[static_cast<uint64_t>(to) * packs + at] = buffer[static_cast<uint64_t>(from) * packs + at];
    }
}
SCONCE_KERNEL(copy_blocks)

// updates: their number, then triples: row, column, the block to write there. No place comes twice.
// tables: [num_rows, num_columns]
extern "C" __global__ void __launch_bounds__(256)
    update_tables(uint32_t* tables, const uint32_t* updates, uint32_t num_rows, uint32_t num_columns,
                  uint32_t limit) {
    wait_for_dependencies();
    const uint32_t count = min(updates[0], limit);
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
        const uint32_t* update = updates + 1 + 3 * i;
        const uint32_t row = update[0], column = update[1];
        if (row >= num_rows || column >= num_columns) continue;
        tables[static_cast<uint64_t>(row) * num_columns + column] = update[2];
    }
}
SCONCE_KERNEL(update_tables)
