// FlashInfer's paged decode, on CUDA cores and on tensor cores, and its paged prefill for Ampere and newer.
#include <flashinfer/attention/decode.cuh>
#include <flashinfer/attention/default_decode_params.cuh>
#include <flashinfer/attention/default_prefill_params.cuh>
#include <flashinfer/attention/mask.cuh>
#include <flashinfer/attention/prefill.cuh>
#include <flashinfer/attention/scheduler.cuh>
#include <flashinfer/attention/variants.cuh>

#include <stdexcept>

#include "attention.h"

using flashinfer::MaskMode;
using flashinfer::PosEncodingMode;
using Variant = flashinfer::DefaultAttention<false, false, false, false>;
using Pages = flashinfer::paged_kv_t<Bf16, int32_t>;
using DecodeParams = flashinfer::BatchDecodeParams<Bf16, Bf16, Bf16, int32_t>;
using PrefillParams = flashinfer::BatchPrefillPagedParams<Bf16, Bf16, Bf16, int32_t>;
constexpr PosEncodingMode kNone = PosEncodingMode::kNone;

static Pages pages_of(const Batch& batch, const Memory& memory, Layout layout) {
    return Pages(kNumKvHeads, kPageSize, kHeadDim, batch.num_rows,
                 layout == Layout::kHnd ? flashinfer::QKVLayout::kHND : flashinfer::QKVLayout::kNHD, nullptr, nullptr,
                 memory.pages, memory.page_indptr, memory.last_page_len);
}

template <typename T>
static T* at(void* base, int64_t offset) {
    return flashinfer::GetPtrFromBaseOffset<T>(base, offset);
}

Run plan_decode(const Batch& batch, Memory& memory, Layout layout, bool early) {
    flashinfer::DecodePlanInfo plan;
    auto estimate =
        flashinfer::BatchDecodeWithPagedKVCacheWorkEstimationDispatched<kGroup, kHeadDim, kNone, Variant, DecodeParams>;
    check(flashinfer::DecodePlan<kHeadDim, kNone, Variant, DecodeParams>(
              memory.floats, memory.float_bytes, memory.ints, memory.pinned, memory.int_bytes, plan,
              memory.host_page_indptr.data(), batch.num_rows, kNumHeads, kPageSize, /*enable_cuda_graph=*/false,
              memory.stream, estimate),
          "FlashInfer's plan of a decode");
    DecodeParams params(memory.queries, nullptr, pages_of(batch, memory, layout), memory.out, nullptr, nullptr,
                        kNumHeads, kNumHeads * kHeadDim, kHeadDim, /*window_left=*/-1, /*logits_soft_cap=*/0.0f, kScale,
                        1.0f, 1e4f);
    params.request_indices = at<int32_t>(memory.ints, plan.request_indices_offset);
    params.kv_tile_indices = at<int32_t>(memory.ints, plan.kv_tile_indices_offset);
    params.o_indptr = at<int32_t>(memory.ints, plan.o_indptr_offset);
    params.kv_chunk_size_ptr = at<int32_t>(memory.ints, plan.kv_chunk_size_ptr_offset);
    params.padded_batch_size = plan.padded_batch_size;
    Bf16* partial = plan.split_kv ? at<Bf16>(memory.floats, plan.v_offset) : nullptr;
    float* sums = plan.split_kv ? at<float>(memory.floats, plan.s_offset) : nullptr;
    return [=, stream = memory.stream](Bf16* keys, Bf16* values) mutable {
        params.paged_kv.k_data = keys;
        params.paged_kv.v_data = values;
        return flashinfer::BatchDecodeWithPagedKVCacheDispatched<kHeadDim, kNone, Variant>(params, partial, sums, early,
                                                                                          stream);
    };
}

// The prefill's kernels, by tiles of `kTile` packed queries.
template <int kTile, MaskMode kMask>
static Run plan_prefill(const Batch& batch, Memory& memory, Layout layout, bool early) {
    flashinfer::PrefillPlanInfo plan;
    check(flashinfer::PrefillPlan<int32_t>(
              memory.floats, memory.float_bytes, memory.ints, memory.pinned, memory.int_bytes, plan,
              memory.host_token_indptr.data(), memory.host_page_indptr.data(), batch.total_tokens(), batch.num_rows,
              kNumHeads, kNumKvHeads, kHeadDim, kHeadDim, kPageSize, /*enable_cuda_graph=*/false, sizeof(Bf16),
              /*window_left=*/-1, /*fixed_split_size=*/-1, /*disable_split_kv=*/false, /*num_colocated_ctas=*/0,
              /*uniform_q_len=*/0, memory.stream),
          "FlashInfer's plan of a prefill");
    if (plan.cta_tile_q != kTile) throw std::runtime_error("a plan by other tiles than those compiled");
    PrefillParams params(memory.queries, pages_of(batch, memory, layout), nullptr, memory.token_indptr, nullptr,
                         nullptr, memory.out, nullptr, nullptr, kNumHeads, kNumHeads * kHeadDim, kHeadDim,
                         /*window_left=*/-1, /*logits_soft_cap=*/0.0f, kScale, 1.0f, 1e4f);
    params.request_indices = at<int32_t>(memory.ints, plan.request_indices_offset);
    params.qo_tile_indices = at<int32_t>(memory.ints, plan.qo_tile_indices_offset);
    params.kv_tile_indices = at<int32_t>(memory.ints, plan.kv_tile_indices_offset);
    params.o_indptr = at<int32_t>(memory.ints, plan.o_indptr_offset);
    params.kv_chunk_size_ptr = at<int32_t>(memory.ints, plan.kv_chunk_size_ptr_offset);
    params.padded_batch_size = plan.padded_batch_size;
    params.max_total_num_rows = plan.total_num_rows;
    Bf16* partial = nullptr;
    float* sums = nullptr;
    if (plan.split_kv) {
        params.merge_indptr = at<int32_t>(memory.ints, plan.merge_indptr_offset);
        partial = at<Bf16>(memory.floats, plan.v_offset);
        sums = at<float>(memory.floats, plan.s_offset);
    }
    return [=, stream = memory.stream](Bf16* keys, Bf16* values) mutable {
        params.paged_kv.k_data = keys;
        params.paged_kv.v_data = values;
        return flashinfer::BatchPrefillWithPagedKVCacheDispatched<kTile, kHeadDim, kHeadDim, kNone,
                                                                  /*USE_FP16_QK_REDUCTION=*/false, kMask, Variant>(
            params, partial, sums, early, stream);
    };
}

Run plan_decode_tensor_cores(const Batch& batch, Memory& memory, Layout layout, bool early) {
    return plan_prefill<16, MaskMode::kNone>(batch, memory, layout, early);
}

Run plan_prefill_fa2(const Batch& batch, Memory& memory, Layout layout, bool early) {
    return plan_prefill<128, MaskMode::kCausal>(batch, memory, layout, early);
}
