// What the attention kernels share: the plan that says what is to be done, where keys lie, what a query
// sees, and how the results of several ranges of keys become one.
//
// The query heads that share a head of keys are packed: query `i` of a row is head `i % group` of the group
// and token `i / group`. So one pass over the keys serves them all.
#pragma once

#include "kv.cuh"

constexpr float LOG2E = 1.4426950408889634f;
// Keys that surely lie in one block.
constexpr int UNIT = 16;
constexpr uint32_t NOWHERE = 0xffffffffu;

// Lists of the plan, an array of words (`src/cuda/attention/plan.rs` writes it): at word `2 list` is how
// many records there are, after it where they begin. Records have eight words.
enum List { DECODES = 0, MERGES = 1, PREFILLS = 2 };
constexpr int RECORD = 8;
// The word that has the most queries of a merge.
constexpr int MERGE_QUERIES = 6;

// Some queries of a row, and the keys that they are to see now.
struct Work {
    int first_token, num_tokens, num_computed, table, first_query, num_queries, begin, end;
    // Row of the partial results where the first query's goes, or `NOWHERE` if this is all of it.
    uint32_t partial;
};

// Queries whose results of `num_parts` ranges of keys lie at `partial`, part after part.
struct Merge {
    int first_token, first_query, num_queries, num_parts;
    uint32_t partial;
};

template <class T, class C> struct Attention {
    const uint32_t* plan;
    const T* qkv; // [num_tokens, (num_heads + 2 kv_heads) head_dim]
    T* out;       // [num_tokens, num_heads head_dim]
    const C *keys, *values;
    const float *key_scales, *value_scales;
    const uint32_t* tables; // [.., table_stride]
    const float* sinks;     // [num_heads], or null
    float* partials;        // [.., kv_heads, head_dim]
    float2* partial_sums;   // [.., kv_heads] largest score and sum of weights
    uint32_t plan_words;
    int num_tokens;
    uint32_t num_partials;
    int num_tables, table_stride, num_blocks, block_units;
    uint32_t block_magic;
    int kv_heads, group, head_dim;
    float scale, soft_cap;
    int window;
};

#define ATTENTION_PARAMETERS(T, C)                                                                 \
    const uint32_t *plan, const T *qkv, T *out, const C *keys, const C *values,                    \
        const float *key_scales, const float *value_scales, const uint32_t *tables,                \
        const float *sinks, float *partials, float2 *partial_sums, uint32_t plan_words,            \
        int num_tokens, uint32_t num_partials, int num_tables, int table_stride, int num_blocks,   \
        int block_units, uint32_t block_magic, int kv_heads, int group, int head_dim, float scale, \
        float soft_cap, int window
#define ATTENTION_ARGUMENTS                                                                        \
    {                                                                                              \
        plan, qkv, out, keys, values, key_scales, value_scales, tables, sinks, partials,           \
            partial_sums, plan_words, num_tokens, num_partials, num_tables, table_stride,          \
            num_blocks, block_units, block_magic, kv_heads, group, head_dim, scale, soft_cap,      \
            window                                                                                 \
    }

// Where a list's records begin, which are read 16 bytes at a time.
__device__ __forceinline__ uint32_t plan_begin(const uint32_t* plan, List list) {
    return plan[2 * list + 1] & ~3u;
}

// How many records a list has, as far as they are within the plan.
__device__ __forceinline__ uint32_t plan_count(const uint32_t* plan, uint32_t words, List list) {
    const uint32_t begin = plan_begin(plan, list);
    return begin > words ? 0 : min(plan[2 * list], (words - begin) / static_cast<uint32_t>(RECORD));
}

__device__ __forceinline__ const uint32_t* plan_record(const uint32_t* plan, List list, uint32_t index) {
    return plan + plan_begin(plan, list) + index * RECORD;
}

// Reads a record of at most `tile` queries. One that names what does not exist has no queries.
template <class T, class C>
__device__ __forceinline__ Work read_work(const Attention<T, C>& a, List list, uint32_t index, int tile) {
    const uint32_t* record = plan_record(a.plan, list, index);
    const auto x = load_pack(record), y = load_pack(record + 4);
    Work work = {static_cast<int>(x.at[0]), static_cast<int>(x.at[1]), static_cast<int>(x.at[2]),
                 static_cast<int>(x.at[3]), static_cast<int>(y.at[0]), 0,
                 static_cast<int>(y.at[1]), static_cast<int>(y.at[2]), y.at[3]};
    const int keys = a.table_stride * a.block_units * UNIT;
    const int least = min(min(work.first_token, work.num_tokens), min(work.num_computed, work.table));
    const bool exists = min(least, min(work.first_query, work.begin)) >= 0 &&
                        work.first_token <= a.num_tokens &&
                        work.num_tokens <= a.num_tokens - work.first_token && work.table < a.num_tables &&
                        work.num_computed <= keys && work.num_tokens <= keys - work.num_computed;
    if (exists) work.num_queries = min(tile, work.num_tokens * a.group - work.first_query);
    if (work.partial != NOWHERE && work.num_queries > 0) {
        const uint32_t rows = work.num_queries;
        if (work.partial > a.num_partials || rows > a.num_partials - work.partial) work.num_queries = 0;
    }
    work.end = min(work.end, work.num_computed + work.num_tokens);
    return work;
}

// Where the 16 keys of unit `unit` of a row lie: their row in the cache, or -1 where the table names no
// block.
template <class T, class C>
__device__ __forceinline__ int find_unit(const Attention<T, C>& a, const uint32_t* table, int kv_head,
                                         int unit) {
    // A division by multiplication: exact below 2^20 units, of blocks below 2^12.
    const int column = a.block_magic == 0 ? unit : static_cast<int>(__umulhi(unit, a.block_magic));
    const uint32_t block = table[column];
    if (block >= static_cast<uint32_t>(a.num_blocks)) return -1;
    const int inside = unit - column * a.block_units;
    return ((static_cast<int>(block) * a.kv_heads + kv_head) * a.block_units + inside) * UNIT;
}

template <class T, class C>
__device__ __forceinline__ const T* query_at(const Attention<T, C>& a, const Work& work, int kv_head,
                                             int query) {
    const int64_t token = work.first_token + query / a.group;
    const int head = kv_head * a.group + query % a.group;
    return a.qkv + (token * a.kv_heads * (a.group + 2) + head) * a.head_dim;
}

// The keys that a query sees: `[begin, end)`.
struct Sight {
    int begin, end;
};

template <class T, class C>
__device__ __forceinline__ Sight sight_of(const Attention<T, C>& a, const Work& work, int query) {
    const int end = work.num_computed + query / a.group + 1;
    return {max(0, end - a.window), end};
}

// 2 to the power of `x`, to two units in the last place; 0 below what is normal.
__device__ __forceinline__ float power_of_2(float x) {
#ifdef SCONCE_HOST
    return exp2f(x);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

// To a few units in the last place of 1, which is what a cap is multiplied with.
__device__ __forceinline__ float quick_tanh(float x) {
    const float e = power_of_2(2.0f * LOG2E * x);
#ifdef SCONCE_HOST
    return 1.0f - 2.0f / (e + 1.0f);
#else
    return 1.0f - __fdividef(2.0f, e + 1.0f);
#endif
}

// A weight is 2 to the power of `factor` times its score, less the largest.
struct Scoring {
    float factor, soft_cap, inner;

    template <class T, class C> __device__ __forceinline__ explicit Scoring(const Attention<T, C>& a) {
        soft_cap = a.soft_cap;
        inner = caps() ? a.scale / soft_cap : 0.0f;
        factor = caps() ? LOG2E : a.scale * LOG2E;
    }

    __device__ __forceinline__ bool caps() const { return soft_cap > 0.0f; }

    // Gemma 2's.
    __device__ __forceinline__ float cap(float product) const {
        return soft_cap * quick_tanh(product * inner);
    }
};

// What is subtracted of exponents: the largest so far, or anything else than an infinity if nothing was
// seen.
__device__ __forceinline__ float base_of(float largest) { return largest == -INFINITY ? 0.0f : largest; }

// What weighted sums are multiplied with in the end. `largest` and the sink are exponents of 2; a sink is
// a score of its own that has no value (Xiao et al., 2023).
__device__ __forceinline__ float normalizer(float largest, float sum, const float* sinks, int head) {
    if (sinks == nullptr) return 1.0f / sum;
    const float sink = sinks[head] * LOG2E;
    const float base = fmaxf(largest, sink);
    const float weight = power_of_2(largest - base);
    return weight / (sum * weight + power_of_2(sink - base));
}
