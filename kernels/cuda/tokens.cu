// What happens to sampled tokens without the host: they become the next step's input, are compared with
// drafts, and are counted.
#include "sampling.cuh"

// out: [num]: where `from` names an earlier step's sampled token, that, otherwise `given`. What cannot be
// embedded becomes 0: the host samples such rows itself, and discards what follows from them.
extern "C" __global__ void __launch_bounds__(256)
    feed_tokens(const int32_t* from, const uint32_t* given, const uint32_t* sampled, uint32_t* out,
                uint32_t num, uint32_t num_sampled, uint32_t vocab) {
    wait_for_dependencies();
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= num) return;
    uint32_t token = given[i];
    if (from[i] >= 0) token = static_cast<uint32_t>(from[i]) < num_sampled ? sampled[from[i]] : 0;
    out[i] = token < vocab ? token : 0;
}
SCONCE_KERNEL(feed_tokens)

// A sample whose rows follow each other: its own, and one for each draft.
struct Drafted {
    uint32_t first_row, first_draft, num_drafts;
};

// valid: [num]: how many of a sample's tokens count: the first, and each after a draft that was right.
extern "C" __global__ void __launch_bounds__(256)
    accept_drafts(const Drafted* samples, const uint32_t* drafts, const uint32_t* sampled, uint32_t* valid,
                  uint32_t num, uint32_t num_sampled, uint32_t num_drafts) {
    wait_for_dependencies();
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= num) return;
    const Drafted sample = samples[i];
    uint32_t right = 0;
    while (right < sample.num_drafts) {
        const uint64_t row = static_cast<uint64_t>(sample.first_row) + right;
        const uint64_t draft = static_cast<uint64_t>(sample.first_draft) + right;
        // A right draft is followed by a row.
        if (row + 1 >= num_sampled || draft >= num_drafts || sampled[row] != drafts[draft]) break;
        right++;
    }
    valid[i] = 1 + right;
}
SCONCE_KERNEL(accept_drafts)

// Counts tokens of one sequence: marks those of a prompt, or adds those of a completion. `counts` has an
// even number of tokens, of which two share a word.
extern "C" __global__ void __launch_bounds__(256)
    count_tokens(uint32_t* counts, const uint32_t* tokens, uint32_t num, uint32_t vocab, uint32_t in_prompt) {
    wait_for_dependencies();
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= num || tokens[i] >= vocab) return;
    uint32_t* word = counts + tokens[i] / 2;
    const uint32_t shift = tokens[i] % 2 * 16;
    if (in_prompt) {
        atomicOr(word, 0x8000u << shift);
        return;
    }
    uint32_t seen = *word, old;
    do {
        old = seen;
        if ((old >> shift & 0x7fffu) == 0x7fffu) return;
        seen = atomicCAS(word, old, old + (1u << shift));
    } while (seen != old);
}
SCONCE_KERNEL(count_tokens)
