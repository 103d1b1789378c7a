// FlashInfer's paged prefill for Hopper, by wgmma.
#include <flashinfer/attention/hopper/default_params.cuh>
#include <flashinfer/attention/hopper/prefill_sm90.cuh>
#include <flashinfer/attention/hopper/variants.cuh>
#include <flashinfer/attention/mask.cuh>
#include <flashinfer/attention/scheduler.cuh>

#include <stdexcept>

#include "attention.h"

using Element = cutlass::bfloat16_t;
using Params = flashinfer::BatchPrefillPagedParams<Element, Element, Element, int32_t>;

Run plan_prefill_fa3(const Batch& batch, Memory& memory, Layout layout, bool early) {
    flashinfer::PrefillPlanSM90Info plan;
    check(flashinfer::PrefillSM90Plan<int32_t>(
              memory.floats, memory.float_bytes, memory.ints, memory.pinned, memory.int_bytes, plan,
              memory.host_token_indptr.data(), memory.host_page_indptr.data(), memory.host_key_lens.data(),
              batch.total_tokens(), batch.num_rows, kNumHeads, kNumKvHeads, kHeadDim, kHeadDim, kPageSize,
              /*causal=*/true, /*enable_cuda_graph=*/false, sizeof(Element), memory.stream),
          "FlashInfer's plan of a prefill for Hopper");
    // Only batches of many more tokens have one.
    if (plan.same_schedule_for_all_heads) {
        throw std::runtime_error("a schedule for all heads, which is not compiled");
    }
    auto at = [&](int64_t offset) {
        return flashinfer::GetPtrFromBaseOffset<int32_t>(memory.ints, offset);
    };
    Params params{};
    params.q_ptr = reinterpret_cast<Element*>(memory.queries);
    params.o_ptr = reinterpret_cast<Element*>(memory.out);
    params.qo_tile_indices = at(plan.qo_tile_indices_offset);
    params.qo_indptr = at(plan.qo_indptr_offset);
    params.kv_indptr = at(plan.kv_indptr_offset);
    params.kv_indices = memory.pages;
    params.qo_lens = at(plan.qo_len_offset);
    params.kv_lens = at(plan.kv_len_offset);
    params.head_indices = at(plan.head_indices_offset);
    params.work_indptr = at(plan.work_indptr_offset);
    params.batch_indices = at(plan.batch_indices_offset);
    params.additional_params.sm_scale = kScale;
    params.q_stride_n = params.o_stride_n = kNumHeads * kHeadDim;
    params.q_stride_h = params.o_stride_h = kHeadDim;
    params.k_stride_n = params.v_stride_n = position_stride(layout);
    params.k_stride_h = params.v_stride_h = head_stride(layout);
    params.k_page_stride = params.v_page_stride = kPageStride;
    params.nnz_qo = batch.total_tokens();
    params.num_qo_heads = kNumHeads;
    params.num_kv_heads = kNumKvHeads;
    params.group_size = kGroup;
    params.page_size = kPageSize;
    params.window_left = -1;
    params.causal = true;
    return [params, early, stream = memory.stream](Bf16* keys, Bf16* values) mutable {
        params.k_ptr = reinterpret_cast<Element*>(keys);
        params.v_ptr = reinterpret_cast<Element*>(values);
        return flashinfer::BatchPrefillWithPagedKVCacheDispatched<
            kHeadDim, kHeadDim, flashinfer::MaskMode::kCausal, /*LEFT_SLIDING_WINDOW=*/false,
            /*SAME_SCHEDULE_FOR_ALL_HEADS=*/false, flashinfer::DefaultAttention<false>>(params, early, stream);
    };
}
