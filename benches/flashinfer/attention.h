// What the program of attention.cu and FlashInfer's kernels, which other files compile, agree on.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <vector>

// Llama-3.1-8B's heads, in pages of 16.
constexpr int kNumHeads = 32;
constexpr int kNumKvHeads = 8;
constexpr int kGroup = kNumHeads / kNumKvHeads;
constexpr int kHeadDim = 128;
constexpr int kPageSize = 16;
constexpr float kScale = 0.08838834764831845f;

using Bf16 = __nv_bfloat16;

// Order of a page: `[kNumKvHeads, kPageSize, kHeadDim]`, or positions first.
enum class Layout { kHnd, kNhd };

constexpr int64_t kPageStride = int64_t{kNumKvHeads} * kPageSize * kHeadDim;
inline int64_t head_stride(Layout layout) {
    return layout == Layout::kHnd ? kPageSize * kHeadDim : kHeadDim;
}
inline int64_t position_stride(Layout layout) {
    return layout == Layout::kHnd ? kHeadDim : kNumKvHeads * kHeadDim;
}

// Rows of equal lengths; a row's tokens are the last of its keys.
struct Batch {
    int num_rows;
    int num_tokens;
    int num_keys;
    int total_tokens() const { return num_rows * num_tokens; }
    int pages_per_row() const { return (num_keys + kPageSize - 1) / kPageSize; }
};

// What a call reads and writes beside keys and values. Pointers are the device's, vectors the host's copies.
struct Memory {
    Bf16* queries;  // [tokens, kNumHeads, kHeadDim]
    Bf16* out;      // as queries
    int32_t* pages;
    int32_t *page_indptr, *token_indptr, *last_page_len;
    std::vector<int32_t> host_page_indptr, host_token_indptr, host_key_lens;
    // Workspaces, as large as FlashInfer's manual says, and the second one's image in pinned memory.
    void *floats, *ints, *pinned;
    size_t float_bytes, int_bytes;
    cudaStream_t stream;
};

// Runs what was planned on a set of keys and values.
using Run = std::function<cudaError_t(Bf16* keys, Bf16* values)>;

// Each plans a batch. `early`: kernels are launched before those before them have ended, as FlashInfer's
// Python functions do on Hopper. They throw where FlashInfer does.
Run plan_decode(const Batch&, Memory&, Layout, bool early);
Run plan_decode_tensor_cores(const Batch&, Memory&, Layout, bool early);
Run plan_prefill_fa2(const Batch&, Memory&, Layout, bool early);
Run plan_prefill_fa3(const Batch&, Memory&, Layout, bool early);

// Ends the program with a message unless `error` is none.
void check(cudaError_t error, const char* what);
