// Products of matrices as cuBLASLt describes them, against a plain triple loop in double.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <library_types.h>

#include <cstdint>

#include "check.h"

extern "C" {
struct Algorithm {
    uint64_t data[8];
};
struct Heuristic {
    Algorithm algorithm;
    size_t workspace_bytes;
    int state;
    float waves;
    int reserved[4];
};
int cublasLtCreate(void**);
int cublasLtDestroy(void*);
int cublasLtMatmulDescCreate(void**, int, int);
int cublasLtMatmulDescDestroy(void*);
int cublasLtMatmulDescSetAttribute(void*, int, const void*, size_t);
int cublasLtMatrixLayoutCreate(void**, cudaDataType, uint64_t, uint64_t, int64_t);
int cublasLtMatrixLayoutDestroy(void*);
int cublasLtMatrixLayoutSetAttribute(void*, int, const void*, size_t);
int cublasLtMatmulPreferenceCreate(void**);
int cublasLtMatmulPreferenceSetAttribute(void*, int, const void*, size_t);
int cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void*, int, Heuristic*, int*);
int cublasLtMatmulAlgoCheck(void*, void*, void*, void*, void*, void*, const Algorithm*, Heuristic*);
int cublasLtMatmul(void*, void*, const void*, const void*, void*, const void*, void*, const void*, const void*,
                   void*, void*, void*, const Algorithm*, void*, size_t, void*);
}

enum { COMPUTE_32F = 68, ORDER = 1, BATCH = 5, STRIDE = 6, TRANS_A = 3, TRANS_B = 4, EPILOGUE = 7, BIAS = 8 };
enum { SCALE_A = 17, SCALE_B = 18, MAX_WORKSPACE = 1, EPILOGUE_BIAS = 4 };
enum { INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };

struct Case {
    int rows = 37, cols = 5, depth = 70, batch = 1;
    bool transposes_a = true, transposes_b = false, by_rows = false, has_bias = false;
    float alpha = 1.0f, beta = 0.0f, scale = 1.0f;
};

static float value(int i) { return static_cast<float>((i * 7919) % 33 - 16) / 8.0f; }

// Makes the calls, with contiguous matrices.
template <class In, class Out> class Product {
public:
    Product(const Case& c, cudaDataType in, cudaDataType out)
        : c(c), a(elements<In>(c.rows * c.depth, 3)), b(elements<In>(c.depth * c.cols, 500)),
          d(elements<Out>(c.rows * c.cols, 90)), bias(elements<Out>(c.rows, 40)), on_device_a(a), on_device_b(b),
          on_device_d(d), on_device_bias(bias), scale(std::vector<float>{c.scale}), workspace(1 << 16) {
        EXPECT_IS(cublasLtCreate(&handle), 0);
        EXPECT_IS(cublasLtMatmulDescCreate(&desc, COMPUTE_32F, CUDA_R_32F), 0);
        set(TRANS_A, int32_t{c.transposes_a});
        set(TRANS_B, int32_t{c.transposes_b});
        if (c.has_bias) {
            set(EPILOGUE, int32_t{EPILOGUE_BIAS});
            set(BIAS, on_device_bias.address);
        }
        if (c.scale != 1.0f) {
            set(SCALE_A, scale.address);
            set(SCALE_B, scale.address);
        }
        a_layout = layout(in, c.transposes_a ? c.depth : c.rows, c.transposes_a ? c.rows : c.depth);
        b_layout = layout(in, c.transposes_b ? c.cols : c.depth, c.transposes_b ? c.depth : c.cols);
        d_layout = layout(out, c.rows, c.cols);
    }

    int choose() {
        void* preference;
        const uint64_t most = 1 << 16;
        EXPECT_IS(cublasLtMatmulPreferenceCreate(&preference), 0);
        EXPECT_IS(cublasLtMatmulPreferenceSetAttribute(preference, MAX_WORKSPACE, &most, sizeof most), 0);
        int count = 0;
        const int status = cublasLtMatmulAlgoGetHeuristic(handle, desc, a_layout, b_layout, d_layout, d_layout,
                                                          preference, 1, &chosen, &count);
        EXPECT_IS(count, status == 0 ? 1 : 0);
        return status;
    }

    // Of the algorithm that was chosen, with its first word changed so.
    int check_kept(uint64_t change) {
        Algorithm kept = chosen.algorithm;
        kept.data[0] ^= change;
        Heuristic answer{};
        return cublasLtMatmulAlgoCheck(handle, desc, a_layout, b_layout, d_layout, d_layout, &kept, &answer);
    }

    int run(CUstream stream = nullptr, size_t workspace_bytes = 1 << 16) {
        void* to = at(on_device_d);
        return cublasLtMatmul(handle, desc, &c.alpha, at(on_device_a), a_layout, at(on_device_b), b_layout,
                              &c.beta, to, d_layout, to, d_layout, &chosen.algorithm, at(workspace),
                              workspace_bytes, stream);
    }

    double wanted(int batch, int row, int col) const {
        const auto index = [&](int i, int j, int rows, int cols) { return c.by_rows ? i * cols + j : i + j * rows; };
        double sum = 0.0;
        for (int k = 0; k < c.depth; k++) {
            const int i = c.transposes_a ? index(k, row, c.depth, c.rows) : index(row, k, c.rows, c.depth);
            const int j = c.transposes_b ? index(col, k, c.cols, c.depth) : index(k, col, c.depth, c.cols);
            sum += double(float(a[batch * c.rows * c.depth + i])) * float(b[batch * c.depth * c.cols + j]);
        }
        const int at = batch * c.rows * c.cols + index(row, col, c.rows, c.cols);
        return c.alpha * c.scale * c.scale * sum + c.beta * float(d[at]) + (c.has_bias ? float(bias[row]) : 0.0f);
    }

    void check(double tolerance) {
        OK(cuStreamSynchronize(nullptr));
        const auto is = on_device_d.get();
        double worst = 0.0;
        for (int batch = 0; batch < c.batch; batch++) {
            for (int row = 0; row < c.rows; row++) {
                for (int col = 0; col < c.cols; col++) {
                    const int i = batch * c.rows * c.cols + (c.by_rows ? row * c.cols + col : row + col * c.rows);
                    worst = std::max(worst, std::abs(float(is[i]) - wanted(batch, row, col)));
                }
            }
        }
        if (!(worst < tolerance)) fprintf(stderr, "off by %g\n", worst);
        EXPECT(worst < tolerance);
    }

    template <class T> int set(int attribute, T to) {
        return cublasLtMatmulDescSetAttribute(desc, attribute, &to, sizeof to);
    }

    const Case c;

private:
    template <class T> std::vector<T> elements(int count, int first) const {
        std::vector<T> values;
        for (int i = 0; i < count * c.batch; i++) values.push_back(T(value(first + i)));
        return values;
    }

    void* layout(cudaDataType type, int rows, int cols) {
        void* made;
        EXPECT_IS(cublasLtMatrixLayoutCreate(&made, type, rows, cols, c.by_rows ? cols : rows), 0);
        const int32_t order = c.by_rows, batch = c.batch;
        const int64_t stride = rows * cols;
        EXPECT_IS(cublasLtMatrixLayoutSetAttribute(made, ORDER, &order, sizeof order), 0);
        EXPECT_IS(cublasLtMatrixLayoutSetAttribute(made, BATCH, &batch, sizeof batch), 0);
        EXPECT_IS(cublasLtMatrixLayoutSetAttribute(made, STRIDE, &stride, sizeof stride), 0);
        return made;
    }

    template <class T> static void* at(const Buffer<T>& buffer) { return reinterpret_cast<void*>(buffer.address); }

    std::vector<In> a, b;
    std::vector<Out> d, bias;

public:
    Buffer<In> on_device_a, on_device_b;
    Buffer<Out> on_device_d, on_device_bias;

private:
    Buffer<float> scale;
    Buffer<char> workspace;
    void *handle, *desc, *a_layout, *b_layout, *d_layout;
    Heuristic chosen{};
};

template <class In, class Out>
static void check(const Case& c, cudaDataType in, cudaDataType out, double tolerance) {
    Product<In, Out> product(c, in, out);
    EXPECT_IS(product.choose(), 0);
    EXPECT_IS(product.run(), 0);
    product.check(tolerance);
}

TEST(products_are_right_however_operands_lie) {
    for (const bool transposes_a : {false, true}) {
        for (const bool transposes_b : {false, true}) {
            for (const bool by_rows : {false, true}) {
                Case c;
                c.transposes_a = transposes_a;
                c.transposes_b = transposes_b;
                c.by_rows = by_rows;
                check<float, float>(c, CUDA_R_32F, CUDA_R_32F, 1e-4);
            }
        }
    }
}

TEST(products_scale_add_and_come_in_batches) {
    Case c;
    c.alpha = 0.5f;
    c.beta = 2.0f;
    c.has_bias = true;
    check<float, float>(c, CUDA_R_32F, CUDA_R_32F, 1e-4);
    c.has_bias = false;
    c.batch = 3;
    check<float, float>(c, CUDA_R_32F, CUDA_R_32F, 1e-4);
    c.rows = 300;
    c.cols = 64;
    check<float, float>(c, CUDA_R_32F, CUDA_R_32F, 1e-4);
}

TEST(products_are_right_in_each_type) {
    Case c;
    c.has_bias = true;
    check<__nv_bfloat16, __nv_bfloat16>(c, CUDA_R_16BF, CUDA_R_16BF, 0.5);
    check<__nv_bfloat16, float>(c, CUDA_R_16BF, CUDA_R_32F, 1e-4);
    check<__half, __half>(c, CUDA_R_16F, CUDA_R_16F, 0.1);
    Case fp8;
    fp8.rows = 48;
    fp8.depth = 80;
    fp8.scale = 0.5f;
    check<__nv_fp8_e4m3, __nv_bfloat16>(fp8, CUDA_R_8F_E4M3, CUDA_R_16BF, 0.2);
}

TEST(products_are_recorded_in_graphs) {
    Product<float, float> product(Case(), CUDA_R_32F, CUDA_R_32F);
    EXPECT_IS(product.choose(), 0);
    CUstream stream;
    OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    stand_in_reset();
    OK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    EXPECT_IS(product.run(stream), 0);
    CUgraph graph;
    CUgraphExec executable;
    OK(cuStreamEndCapture(stream, &graph));
    OK(cuGraphInstantiate(&executable, graph, 0));
    EXPECT_IS(stand_in_count("kernel:cublasLtMatmul"), 0ull);
    OK(cuGraphLaunch(executable, stream));
    product.check(1e-4);
    EXPECT_IS(stand_in_count("kernel:cublasLtMatmul"), 1ull);
    EXPECT_IS(stand_in_count("cublasLtMatmul"), 1ull);
    EXPECT_IS(stand_in_count("graph_nodes"), 1ull);
}

TEST(products_are_checked) {
    Product<float, float> product(Case(), CUDA_R_32F, CUDA_R_32F);
    EXPECT_IS(product.choose(), 0);
    EXPECT_IS(product.run(nullptr, 16), INVALID_VALUE);
    EXPECT_IS(product.set(TRANS_A, int32_t{0}), 0);
    EXPECT_IS(product.choose(), INVALID_VALUE);
    EXPECT_IS(product.set(TRANS_A, int64_t{0}), INVALID_VALUE);
    stand_in_fail("cublasLtMatmul:1:13");
    EXPECT_IS(product.run(), EXECUTION_FAILED);
    stand_in_fail("");
    Case odd;
    odd.scale = 0.5f;
    EXPECT_IS((Product<__nv_fp8_e4m3, float>(odd, CUDA_R_8F_E4M3, CUDA_R_32F).choose()), NOT_SUPPORTED);
}

TEST(algorithms_are_kept) {
    Product<float, float> product(Case(), CUDA_R_32F, CUDA_R_32F);
    EXPECT_IS(product.choose(), 0);
    EXPECT_IS(product.check_kept(0), 0);
    EXPECT_IS(product.check_kept(1), INVALID_VALUE);
}

TEST(products_past_memory_fail) {
    Product<float, float> product(Case(), CUDA_R_32F, CUDA_R_32F);
    EXPECT_IS(product.choose(), 0);
    const CUdeviceptr right = product.on_device_b.address;
    product.on_device_b.address += 4;
    EXPECT_IS(product.run(), 0);
    product.on_device_b.address = right;
    EXPECT_IS(cuStreamSynchronize(nullptr), CUDA_ERROR_ILLEGAL_ADDRESS);
    EXPECT_IS(product.run(), EXECUTION_FAILED);
    stand_in_revive();
}
