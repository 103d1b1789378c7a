// Does matrix products in float: each task widens some rows of one operand and multiplies them with all of
// the other, which is widened once. An element's sum has the same order whatever the shape of the product.
#include "matmul.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <vector>

#include "../half.h"

namespace stand_in {

namespace {

constexpr int ILLEGAL_ADDRESS = 700;
constexpr uint64_t LANES = 8, ROWS_AT_ONCE = 32;

// Waking another core costs more.
constexpr uint64_t FEW_PRODUCTS = 100'000;

typedef float Lanes __attribute__((vector_size(LANES * sizeof(float))));

struct Fp8Values {
    float of[256];
    Fp8Values() {
        for (int i = 0; i < 256; i++) {
            const auto bits = static_cast<__nv_fp8_storage_t>(i);
            of[i] = __half2float(__half(__nv_cvt_fp8_to_halfraw(bits, __NV_E4M3)));
        }
    }
};

template <class T> T element(const void* from, uint64_t i) {
    T value;
    memcpy(&value, static_cast<const unsigned char*>(from) + i * sizeof(T), sizeof(T));
    return value;
}

float load(const void* from, cudaDataType type, uint64_t i) {
    static const Fp8Values fp8;
    switch (type) {
    case CUDA_R_32F: return element<float>(from, i);
    case CUDA_R_16F: return from_f16(element<uint16_t>(from, i));
    case CUDA_R_16BF: return from_bf16(element<uint16_t>(from, i));
    default: return fp8.of[element<uint8_t>(from, i)];
    }
}

template <class T> void put(void* to, uint64_t i, T value) {
    memcpy(static_cast<unsigned char*>(to) + i * sizeof(T), &value, sizeof(T));
}

void store(void* to, cudaDataType type, uint64_t i, float value) {
    switch (type) {
    case CUDA_R_32F: return put(to, i, value);
    case CUDA_R_16F: return put(to, i, __float2half(value));
    case CUDA_R_16BF: return put(to, i, __float2bfloat16(value));
    default: return put(to, i, __nv_cvt_float_to_fp8(value, __NV_SATFINITE, __NV_E4M3));
    }
}

// Some rows of an operand in float, each padded with zeros.
struct Rows {
    std::vector<float> values;
    uint64_t width;

    const float* row(uint64_t i) const { return values.data() + i * width; }
};

struct Source {
    const Matrix& matrix;
    const void* from;
    uint64_t batch;
};

// `transposes`: the rows are the matrix's columns.
template <cudaDataType TYPE>
void widen_as(const Source& source, bool transposes, uint64_t begin, uint64_t count, uint64_t depth, Rows& to) {
    const Matrix& m = source.matrix;
    const uint64_t base = source.batch * static_cast<uint64_t>(m.stride);
    const uint64_t row_step = transposes ? m.at(0, 1) : m.at(1, 0), step = transposes ? m.at(1, 0) : m.at(0, 1);
    for (uint64_t i = 0; i < count; i++) {
        float* row = to.values.data() + i * to.width;
        const uint64_t first = base + (begin + i) * row_step;
        for (uint64_t k = 0; k < depth; k++) row[k] = load(source.from, TYPE, first + k * step);
    }
}

void widen(const Source& source, bool transposes, uint64_t begin, uint64_t count, uint64_t depth, Rows& to) {
    to.width = (depth + LANES - 1) / LANES * LANES;
    to.values.assign(count * to.width, 0.0f);
    switch (source.matrix.type) {
    case CUDA_R_32F: return widen_as<CUDA_R_32F>(source, transposes, begin, count, depth, to);
    case CUDA_R_16F: return widen_as<CUDA_R_16F>(source, transposes, begin, count, depth, to);
    case CUDA_R_16BF: return widen_as<CUDA_R_16BF>(source, transposes, begin, count, depth, to);
    default: return widen_as<CUDA_R_8F_E4M3>(source, transposes, begin, count, depth, to);
    }
}

constexpr uint64_t SCALED = 128;

uint64_t blocks_of(uint64_t count) { return (count + SCALED - 1) / SCALED; }

// Of a row of squares, padded.
uint64_t squares_of(uint64_t depth) { return (blocks_of(depth) + 3) / 4 * 4; }

// Multiplies rows, of which the first is the operand's row `begin`, with the scales of their blocks.
template <class At> void scale(Rows& rows, uint64_t begin, uint64_t count, uint64_t depth, const At& scale_at) {
    for (uint64_t i = 0; i < count; i++) {
        float* row = rows.values.data() + i * rows.width;
        for (uint64_t k = 0; k < depth; k++) row[k] *= scale_at(begin + i, k / SCALED);
    }
}

Lanes lanes(const float* from) {
    Lanes value;
    memcpy(&value, from, sizeof value);
    return value;
}

float sum(const Lanes& x) { return ((x[0] + x[4]) + (x[1] + x[5])) + ((x[2] + x[6]) + (x[3] + x[7])); }

// The products of `M` rows with `N` others.
template <int M, int N> void tile(const Rows& a, uint64_t i, const Rows& b, uint64_t j, float (&out)[4][4]) {
    Lanes sums[M][N] = {};
    for (uint64_t k = 0; k < a.width; k += LANES) {
        Lanes x[M];
        for (int m = 0; m < M; m++) x[m] = lanes(a.row(i + m) + k);
        for (int n = 0; n < N; n++) {
            const Lanes y = lanes(b.row(j + n) + k);
            for (int m = 0; m < M; m++) sums[m][n] += x[m] * y;
        }
    }
    for (int m = 0; m < M; m++) {
        for (int n = 0; n < N; n++) out[m][n] = sum(sums[m][n]);
    }
}

void tile_of(uint64_t height, uint64_t width, const Rows& a, uint64_t i, const Rows& b, uint64_t j,
             float (&out)[4][4]) {
    if (height == 4 && width == 3) return tile<4, 3>(a, i, b, j, out);
    if (height == 4 && width == 1) return tile<4, 1>(a, i, b, j, out);
    for (uint64_t m = 0; m < height; m++) {
        for (uint64_t n = 0; n < width; n++) {
            float one[4][4];
            tile<1, 1>(a, i + m, b, j + n, one);
            out[m][n] = one[0][0];
        }
    }
}

struct Scalars {
    float alpha, beta, to;
};

Scalars scalars(const Product& p) {
    const auto scale = [](const float* at) { return at == nullptr ? 1.0f : *at; };
    const float alpha = p.scalars_on_device ? element<float>(p.alpha_at, 0) : p.alpha;
    const float beta = p.scalars_on_device ? element<float>(p.beta_at, 0) : p.beta;
    const bool has_many = p.scales_vectors || p.scales_blocks;
    const float both = has_many ? 1.0f : scale(p.scale_a) * scale(p.scale_b);
    return {alpha * both, beta * scale(p.scale_c), scale(p.scale_d)};
}

struct Task {
    const Product& product;
    Scalars scalars;
    uint64_t batch;
    Rows right;

    void finish(uint64_t row, uint64_t col, float sum) const;
    void run(uint64_t block) const;
};

void Task::finish(uint64_t row, uint64_t col, float sum) const {
    const Product& p = product;
    float value = sum * scalars.alpha;
    if (p.scales_vectors) value *= p.scale_a[row] * p.scale_b[col];
    if (scalars.beta != 0.0f) {
        value += scalars.beta * load(p.from_c, p.c.type, p.c.at(batch, row, col));
    }
    const uint64_t biases = batch * static_cast<uint64_t>(p.bias_stride);
    if (p.bias != nullptr) value += load(p.bias, p.bias_type, biases + row);
    store(p.to, p.d.type, p.d.at(batch, row, col), value * scalars.to);
}

// Some rows of the result.
void Task::run(uint64_t block) const {
    const Product& p = product;
    thread_local Rows left;
    const uint64_t begin = block * ROWS_AT_ONCE, count = std::min(ROWS_AT_ONCE, p.rows() - begin);
    // op(a) is [rows, depth]: its rows are the matrix's own unless it is transposed.
    widen({p.a, p.from_a, batch}, p.transposes_a, begin, count, p.depth(), left);
    if (p.scales_blocks) {
        const uint64_t width = squares_of(p.depth());
        scale(left, begin, count, p.depth(), [&](uint64_t row, uint64_t block) {
            return p.scale_a[row / SCALED * width + block];
        });
    }
    for (uint64_t j = 0; j < p.cols(); j += 3) {
        const uint64_t rest = p.cols() - j, width = rest >= 3 ? 3 : rest;
        for (uint64_t i = 0; i < count; i += 4) {
            const uint64_t height = std::min<uint64_t>(4, count - i);
            float out[4][4];
            tile_of(height, width, left, i, right, j, out);
            for (uint64_t m = 0; m < height; m++) {
                for (uint64_t n = 0; n < width; n++) finish(begin + i + m, j + n, out[m][n]);
            }
        }
    }
}

bool is_on_device(const Product& p) {
    const auto lies = [](const void* at, size_t bytes) { return driver()->is_device(at, bytes) != 0; };
    for (const float* scale : {p.scale_a, p.scale_b, p.scale_c, p.scale_d}) {
        if (scale != nullptr && !lies(scale, sizeof(float))) return false;
    }
    if (p.scales_vectors && !lies(p.scale_a, p.rows() * sizeof(float))) return false;
    if (p.scales_vectors && !lies(p.scale_b, p.cols() * sizeof(float))) return false;
    if (p.scales_blocks) {
        const uint64_t squares = blocks_of(p.rows()) * squares_of(p.depth());
        if (!lies(p.scale_a, squares * sizeof(float))) return false;
        if (!lies(p.scale_b, blocks_of(p.depth()) * p.cols() * sizeof(float))) return false;
    }
    const auto last_bias = static_cast<size_t>(p.bias_stride) * static_cast<size_t>(p.d.batch - 1) + p.rows();
    if (p.bias != nullptr && !lies(p.bias, last_bias * (p.bias_type == CUDA_R_32F ? 4 : 2))) return false;
    if (p.workspace_bytes != 0 && !lies(p.workspace, p.workspace_bytes)) return false;
    for (const void* scalar : {p.alpha_at, p.beta_at}) {
        if (p.scalars_on_device && !lies(scalar, sizeof(float))) return false;
    }
    const bool reads_c = p.scalars_on_device || p.beta != 0.0f;
    return lies(p.from_a, p.a.bytes()) && lies(p.from_b, p.b.bytes()) && lies(p.to, p.d.bytes()) &&
           (!reads_c || lies(p.from_c, p.c.bytes()));
}

} // namespace

size_t Matrix::element_bytes() const {
    return type == CUDA_R_32F ? 4 : type == CUDA_R_8F_E4M3 ? 1 : 2;
}

size_t Matrix::bytes() const {
    const uint64_t before = static_cast<uint64_t>(batch - 1) * static_cast<uint64_t>(stride);
    return (before + at(rows - 1, cols - 1) + 1) * element_bytes();
}

int multiply(const Product& p) {
    if (!is_on_device(p)) {
        fprintf(stderr, "stand-in: cublasLtMatmul of [%lu, %lu] by [%lu, %lu] leaves the device's memory\n",
                p.rows(), p.depth(), p.depth(), p.cols());
        return ILLEGAL_ADDRESS;
    }
    // Others must not keep anything in the workspace.
    if (p.workspace_bytes != 0) memset(p.workspace, 0xff, p.workspace_bytes);
    for (uint64_t batch = 0; batch < static_cast<uint64_t>(p.d.batch); batch++) {
        Task task{p, scalars(p), batch, {}};
        // The other operand's columns, as rows.
        widen({p.b, p.from_b, batch}, !p.transposes_b, 0, p.cols(), p.depth(), task.right);
        if (p.scales_blocks) {
            scale(task.right, 0, p.cols(), p.depth(), [&](uint64_t col, uint64_t block) {
                return p.scale_b[block * p.cols() + col];
            });
        }
        const uint64_t num_blocks = (p.rows() + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
        const auto one = [](void* argument, uint64_t block) { static_cast<const Task*>(argument)->run(block); };
        if (p.rows() * p.cols() * p.depth() < FEW_PRODUCTS) {
            for (uint64_t block = 0; block < num_blocks; block++) one(&task, block);
        } else {
            driver()->share_out(num_blocks, one, &task);
        }
    }
    return 0;
}

} // namespace stand_in
