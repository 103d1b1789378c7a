// A matrix product as cuBLASLt describes it, ready to be done.
#pragma once

#include <library_types.h>
#include <stddef.h>
#include <stdint.h>

#include "../driver/library.h"

namespace stand_in {

enum class Order : int32_t { COLUMNS = 0, ROWS = 1 };

struct Matrix {
    cudaDataType type;
    uint64_t rows, cols;
    int64_t ld;
    Order order;
    int32_t batch;
    int64_t stride;

    size_t element_bytes() const;
    // In elements, within one of the batch.
    uint64_t at(uint64_t row, uint64_t col) const {
        const auto step = static_cast<uint64_t>(ld);
        return order == Order::COLUMNS ? row + col * step : row * step + col;
    }
    uint64_t at(uint64_t in_batch, uint64_t row, uint64_t col) const {
        return in_batch * static_cast<uint64_t>(stride) + at(row, col);
    }
    // From the first element of the first of the batch to the last of the last.
    size_t bytes() const;
};

// d = scale_d (alpha scale_a scale_b op(a) op(b) + beta c + bias), where scales are of fp8 only. Copied as it
// is into graphs.
struct Product {
    Matrix a, b, c, d;
    bool transposes_a, transposes_b, scalars_on_device;
    const void *from_a, *from_b, *from_c, *bias, *alpha_at, *beta_at;
    void* to;
    float alpha, beta;
    cudaDataType bias_type;
    int64_t bias_stride;
    const float *scale_a, *scale_b, *scale_c, *scale_d;
    // scale_a has one for each row of the result, scale_b one for each column.
    bool scales_vectors;
    // scale_a has one for each 128 by 128 of the rows and the depth, whose rows are padded to a multiple of 4;
    // scale_b one for each 128 of a column, those of all columns after each other.
    bool scales_blocks;
    void* workspace;
    size_t workspace_bytes;

    uint64_t rows() const { return transposes_a ? a.cols : a.rows; }
    uint64_t cols() const { return transposes_b ? b.rows : b.cols; }
    uint64_t depth() const { return transposes_a ? a.rows : a.cols; }
};

struct Driver {
    stand_in_enter_t* enter;
    stand_in_submit_t* submit;
    stand_in_share_out_t* share_out;
    stand_in_is_device_t* is_device;
};

// Null where no stand-in driver is loaded.
const Driver* driver();

// Returns 0 or the CUDA error that a device would end with.
int multiply(const Product& product);

} // namespace stand_in
