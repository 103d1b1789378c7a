// Times of FlashInfer's attention over a paged cache, which Sconce's (kernels/benches/gpu_attention.rs) is
// held against: the same batches, keys and values that no cache holds, the same rules of timing.
//
//     target/flashinfer/attention [--no-early-launch] [WORDS...]
//
// Prints a table, of all rows, or of those that have one of the words: "decode", "FA3". What a call wrote is compared with attention by its definition, for some heads of some
// tokens; a call that was wrong has no time, and ends the program with status 1.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>

#include "attention.h"

void check(cudaError_t error, const char* what) {
    if (error == cudaSuccess) return;
    std::fprintf(stderr, "%s: %s (%s)\n", what, cudaGetErrorString(error), cudaGetErrorName(error));
    std::exit(2);
}

namespace {

constexpr int kWarmUps = 5;
constexpr int kRuns = 50;
// Of keys, and of values: several times any second-level cache.
constexpr size_t kPoolBytes = size_t{512} << 20;
// What is written before the runs, which takes longer than asking for them.
constexpr size_t kFlushBytes = size_t{1} << 30;
constexpr int kFlushes = 8;

struct Case {
    Batch batch;
    bool is_decode() const { return batch.num_tokens == 1; }
    std::string name() const {
        return (is_decode() ? "decode " : "prefill ") + std::to_string(batch.num_rows) + " x " +
               std::to_string(batch.num_keys);
    }
    // Bytes of keys and values.
    double bytes() const { return 2.0 * batch.num_rows * batch.num_keys * kNumKvHeads * kHeadDim * sizeof(Bf16); }
    // Products with keys and with values, of what a token sees.
    double flops() const {
        double seen = batch.num_tokens * (batch.num_keys - (batch.num_tokens - 1) / 2.0);
        return 4.0 * kNumHeads * kHeadDim * seen * batch.num_rows;
    }
};

const Case kCases[] = {
    {{1, 1, 1024}}, {{32, 1, 1024}},  {{64, 1, 1024}},      {{256, 1, 1024}},
    {{1, 1, 8192}}, {{1, 1, 32768}}, {{4, 2048, 2048}}, {{1, 8192, 8192}},
};

__device__ uint32_t scrambled(uint32_t x) {
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

// Numbers between -1 and 1.
__global__ void fill(Bf16* to, size_t len, uint32_t seed) {
    for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < len; i += size_t{gridDim.x} * blockDim.x) {
        to[i] = __float2bfloat16(scrambled(uint32_t(i) ^ seed) * (2.0f / 4294967295.0f) - 1.0f);
    }
}

// A head of a token, and what it sees.
struct Sample {
    int row, token, head, num_keys;
};

// A block attends for one sample: each warp takes every eighth key, and the warps' results are joined.
__global__ void attend(const Sample* samples, const Bf16* queries, const Bf16* keys, const Bf16* values,
                       const int32_t* pages, const int32_t* page_indptr, int64_t head_stride, int64_t position_stride,
                       float* out) {
    constexpr int kWarps = 8, kOwn = kHeadDim / 32;
    __shared__ float mixed[kWarps][kHeadDim], largest[kWarps], sums[kWarps];
    Sample sample = samples[blockIdx.x];
    int warp = threadIdx.x / 32, first = threadIdx.x % 32 * kOwn;
    const Bf16* query = queries + (int64_t{sample.token} * kNumHeads + sample.head) * kHeadDim;
    float own[kOwn] = {}, most = -INFINITY, sum = 0.0f;
    for (int key = warp; key < sample.num_keys; key += kWarps) {
        int64_t page = pages[page_indptr[sample.row] + key / kPageSize];
        int64_t offset = page * kPageStride + sample.head / kGroup * head_stride + key % kPageSize * position_stride;
        float score = 0.0f;
        for (int i = 0; i < kOwn; ++i) {
            score += __bfloat162float(query[first + i]) * __bfloat162float(keys[offset + first + i]);
        }
        for (int lanes = 16; lanes > 0; lanes /= 2) score += __shfl_xor_sync(~0u, score, lanes);
        score *= kScale;
        float now = fmaxf(most, score), kept = expf(most - now), weight = expf(score - now);
        for (int i = 0; i < kOwn; ++i) own[i] = own[i] * kept + weight * __bfloat162float(values[offset + first + i]);
        sum = sum * kept + weight;
        most = now;
    }
    for (int i = 0; i < kOwn; ++i) mixed[warp][first + i] = own[i];
    largest[warp] = most;
    sums[warp] = sum;
    __syncthreads();
    if (threadIdx.x >= kHeadDim) return;
    float all = -INFINITY, above = 0.0f, below = 0.0f;
    for (int i = 0; i < kWarps; ++i) all = fmaxf(all, largest[i]);
    for (int i = 0; i < kWarps; ++i) {
        // A warp without keys has nothing.
        float weight = sums[i] > 0.0f ? expf(largest[i] - all) : 0.0f;
        above += weight * mixed[i][threadIdx.x];
        below += weight * sums[i];
    }
    out[int64_t{blockIdx.x} * kHeadDim + threadIdx.x] = above / below;
}

template <typename T>
T* allocate(size_t len) {
    void* pointer = nullptr;
    check(cudaMalloc(&pointer, std::max<size_t>(len, 1) * sizeof(T)), "cudaMalloc");
    return static_cast<T*>(pointer);
}

template <typename T>
T* uploaded(const std::vector<T>& values) {
    T* to = allocate<T>(values.size());
    check(cudaMemcpy(to, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
    // The copy may have come no further than the driver, and no stream waits for another.
    check(cudaDeviceSynchronize(), "cudaMemcpy");
    return to;
}

// Everything that all cases share.
struct Bench {
    Bf16 *keys, *values;
    char* flush;
    Memory memory{};
    bool early;
    cudaEvent_t events[2 * kRuns];
};

Bench make_bench(bool early) {
    Bench bench{};
    bench.early = early;
    check(cudaStreamCreateWithFlags(&bench.memory.stream, cudaStreamNonBlocking), "cudaStreamCreate");
    size_t len = kPoolBytes / sizeof(Bf16);
    bench.keys = allocate<Bf16>(len);
    bench.values = allocate<Bf16>(len);
    fill<<<1024, 256>>>(bench.keys, len, 1);
    check(cudaGetLastError(), "filling the keys");
    fill<<<1024, 256>>>(bench.values, len, 2);
    check(cudaGetLastError(), "filling the values");
    bench.flush = allocate<char>(kFlushBytes);
    Memory& memory = bench.memory;
    memory.float_bytes = size_t{256} << 20;
    memory.int_bytes = size_t{16} << 20;
    memory.floats = allocate<char>(memory.float_bytes);
    memory.ints = allocate<char>(memory.int_bytes);
    check(cudaMallocHost(&memory.pinned, memory.int_bytes), "cudaMallocHost");
    for (auto& event : bench.events) check(cudaEventCreate(&event), "cudaEventCreate");
    check(cudaDeviceSynchronize(), "filling keys and values");
    return bench;
}

// The batch's queries, and its pages, scattered over a set.
void lay_out(const Batch& batch, Memory& memory) {
    size_t len = size_t(batch.total_tokens()) * kNumHeads * kHeadDim;
    memory.queries = allocate<Bf16>(len);
    memory.out = allocate<Bf16>(len);
    fill<<<1024, 256>>>(memory.queries, len, 3);
    check(cudaGetLastError(), "filling the queries");
    std::vector<int32_t> pages(size_t(batch.num_rows) * batch.pages_per_row());
    for (size_t i = 0; i < pages.size(); ++i) pages[i] = int32_t(i);
    uint32_t state = 12345;
    for (size_t i = pages.size(); i > 1; --i) {
        state = state * 1664525u + 1013904223u;
        std::swap(pages[i - 1], pages[(uint64_t{state} * i) >> 32]);
    }
    memory.host_page_indptr.clear();
    memory.host_token_indptr.clear();
    for (int row = 0; row <= batch.num_rows; ++row) {
        memory.host_page_indptr.push_back(row * batch.pages_per_row());
        memory.host_token_indptr.push_back(row * batch.num_tokens);
    }
    memory.host_key_lens.assign(batch.num_rows, batch.num_keys);
    memory.pages = uploaded(pages);
    memory.page_indptr = uploaded(memory.host_page_indptr);
    memory.token_indptr = uploaded(memory.host_token_indptr);
    memory.last_page_len = uploaded(std::vector<int32_t>(batch.num_rows, (batch.num_keys - 1) % kPageSize + 1));
    check(cudaDeviceSynchronize(), "filling the queries");
}

void release(Memory& memory) {
    for (void* pointer : {(void*)memory.queries, (void*)memory.out, (void*)memory.pages, (void*)memory.page_indptr,
                          (void*)memory.token_indptr, (void*)memory.last_page_len}) {
        check(cudaFree(pointer), "cudaFree");
    }
}

// The largest difference from attention by its definition, as a share of the largest number.
double difference(const Bench& bench, const Batch& batch, Layout layout) {
    std::vector<Sample> samples;
    for (int row : {0, batch.num_rows / 2, batch.num_rows - 1}) {
        for (int token : {0, batch.num_tokens / 3, batch.num_tokens - 1}) {
            for (int head : {0, 13, kNumHeads - 1}) {
                int num_keys = batch.num_keys - batch.num_tokens + token + 1;
                samples.push_back({row, row * batch.num_tokens + token, head, num_keys});
            }
        }
    }
    const Memory& memory = bench.memory;
    Sample* to_attend = uploaded(samples);
    float* expected = allocate<float>(samples.size() * kHeadDim);
    attend<<<samples.size(), 256, 0, memory.stream>>>(to_attend, memory.queries, bench.keys, bench.values, memory.pages,
                                                      memory.page_indptr, head_stride(layout), position_stride(layout),
                                                      expected);
    check(cudaGetLastError(), "the reference");
    check(cudaStreamSynchronize(memory.stream), "the reference");
    std::vector<float> wanted(samples.size() * kHeadDim);
    check(cudaMemcpy(wanted.data(), expected, wanted.size() * sizeof(float), cudaMemcpyDeviceToHost), "cudaMemcpy");
    double worst = 0.0;
    for (size_t i = 0; i < samples.size(); ++i) {
        std::vector<Bf16> given(kHeadDim);
        const Bf16* from = memory.out + (size_t(samples[i].token) * kNumHeads + samples[i].head) * kHeadDim;
        check(cudaMemcpy(given.data(), from, kHeadDim * sizeof(Bf16), cudaMemcpyDeviceToHost), "cudaMemcpy");
        double most = 0.0, error = 0.0;
        for (int j = 0; j < kHeadDim; ++j) {
            double own = wanted[i * kHeadDim + j], other = __bfloat162float(given[j]);
            most = std::max(most, std::fabs(own));
            error = std::max(error, std::isnan(other) ? INFINITY : std::fabs(own - other));
        }
        worst = std::max(worst, error / most);
    }
    check(cudaFree(to_attend), "cudaFree");
    check(cudaFree(expected), "cudaFree");
    return worst;
}

// Median of microseconds. Runs take the sets of the pool in turns, so that keys and values come from memory.
double median_us(Bench& bench, const Batch& batch, const Run& run) {
    cudaStream_t stream = bench.memory.stream;
    size_t set = size_t(batch.num_rows) * batch.pages_per_row() * kPageStride;
    size_t num_sets = std::max<size_t>(kPoolBytes / sizeof(Bf16) / set, 1), next = 0;
    auto ask = [&] {
        size_t at = next++ % num_sets * set;
        check(run(bench.keys + at, bench.values + at), "the call");
    };
    for (int i = 0; i < kWarmUps; ++i) ask();
    check(cudaStreamSynchronize(stream), "the call");
    // While this runs, all that follows is asked for: the host's time is in no figure.
    for (int i = 0; i < kFlushes; ++i) check(cudaMemsetAsync(bench.flush, i, kFlushBytes, stream), "cudaMemset");
    for (int i = 0; i < kWarmUps; ++i) ask();
    for (int i = 0; i < kRuns; ++i) {
        check(cudaEventRecord(bench.events[2 * i], stream), "cudaEventRecord");
        ask();
        check(cudaEventRecord(bench.events[2 * i + 1], stream), "cudaEventRecord");
    }
    check(cudaStreamSynchronize(stream), "the call");
    std::vector<float> times(kRuns);
    for (int i = 0; i < kRuns; ++i) {
        check(cudaEventElapsedTime(&times[i], bench.events[2 * i], bench.events[2 * i + 1]), "cudaEventElapsedTime");
    }
    std::nth_element(times.begin(), times.begin() + kRuns / 2, times.end());
    return times[kRuns / 2] * 1e3;
}

struct Way {
    const char* name;
    Run (*plan)(const Batch&, Memory&, Layout, bool);
    bool decodes;
};

const Way kWays[] = {
    {"CUDA cores", plan_decode, true},
    {"tensor cores", plan_decode_tensor_cores, true},
    {"FA2", plan_prefill_fa2, false},
    {"FA3", plan_prefill_fa3, false},
};

// As a row begins.
std::string title(const Case& work, const Way& way, Layout layout) {
    return "| " + work.name() + " | " + way.name + (layout == Layout::kHnd ? ", HND" : ", NHD") + " | ";
}

// Whether what it wrote was right.
bool measure(Bench& bench, const Case& work, const Way& way, Layout layout) {
    Memory& memory = bench.memory;
    std::printf("%s", title(work, way, layout).c_str());
    try {
        Run run = way.plan(work.batch, memory, layout, bench.early);
        check(cudaStreamSynchronize(memory.stream), "the plan");
        size_t len = size_t(work.batch.total_tokens()) * kNumHeads * kHeadDim;
        check(cudaMemsetAsync(memory.out, 0xff, len * sizeof(Bf16), memory.stream), "cudaMemset");
        check(run(bench.keys, bench.values), "the call");
        check(cudaStreamSynchronize(memory.stream), "the call");
        double error = difference(bench, work.batch, layout);
        if (!(error < 0.03)) {
            std::printf("wrong by %.2g | |\n", error);
            return false;
        }
        double us = median_us(bench, work.batch, run);
        if (work.is_decode()) {
            std::printf("%.2f | %.0f GB/s |\n", us, work.bytes() / us / 1e3);
        } else {
            std::printf("%.2f | %.0f TFLOP/s |\n", us, work.flops() / us / 1e6);
        }
        return true;
    } catch (const std::exception& error) {
        std::printf("failed: %s | |\n", error.what());
        return false;
    }
}

}  // namespace

int main(int argc, char** argv) {
    std::setvbuf(stdout, nullptr, _IOLBF, 0);
    bool early = true;
    std::vector<std::string> words;
    for (int i = 1; i < argc; ++i) {
        if (std::strcmp(argv[i], "--no-early-launch") == 0) {
            early = false;
        } else if (argv[i][0] == '-') {
            std::fprintf(stderr, "usage: %s [--no-early-launch] [WORDS...]\n", argv[0]);
            return 2;
        } else {
            words.push_back(argv[i]);
        }
    }
    auto is_wanted = [&](const std::string& row) {
        auto has = [&](const std::string& word) { return row.find(word) != std::string::npos; };
        return words.empty() || std::any_of(words.begin(), words.end(), has);
    };
    cudaDeviceProp properties{};
    check(cudaSetDevice(0), "no GPU");
    check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
    if (properties.major != 9) {
        std::fprintf(stderr, "%s: this is compiled for compute capability 9.0 only\n", properties.name);
        return 2;
    }
    std::printf("%s: FlashInfer, bf16, %d query heads, %d heads of keys, head_dim %d, pages of %d%s\n\n",
                properties.name, kNumHeads, kNumKvHeads, kHeadDim, kPageSize, early ? ", early launch" : "");
    std::printf("| work | how | us | |\n| --- | --- | --- | --- |\n");
    Bench bench = make_bench(early);
    bool all_right = true;
    for (const Case& work : kCases) {
        lay_out(work.batch, bench.memory);
        for (const Way& way : kWays) {
            if (way.decodes != work.is_decode()) continue;
            for (Layout layout : {Layout::kHnd, Layout::kNhd}) {
                if (is_wanted(title(work, way, layout))) all_right &= measure(bench, work, way, layout);
            }
        }
        release(bench.memory);
    }
    return all_right ? 0 : 1;
}
