// What stands for PTX: products of fragments, loads of matrices, deferred copies.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "check.h"

// Small integers, all different in a row or column, so that no element can stand for another.
template <class T> static void check_multiply(const char* kernel) {
    std::vector<T> a, b;
    for (int i = 0; i < 256; i++) a.push_back(T(static_cast<float>(i - 100)));
    for (int i = 0; i < 128; i++) b.push_back(T(static_cast<float>((i * 37) % 128 - 50)));
    Buffer<T> left(a), right(b);
    Buffer<float> out(128);
    OK(outcome(kernel, {1, 32}, left.address, right.address, out.address));
    const auto is = out.get();
    for (int row = 0; row < 16; row++) {
        for (int col = 0; col < 8; col++) {
            float wanted = 1000.0f;
            for (int k = 0; k < 16; k++) wanted += float(a[row * 16 + k]) * float(b[col * 16 + k]);
            EXPECT_IS(is[row * 8 + col], wanted);
        }
    }
}

TEST(mma_multiplies_bf16) { check_multiply<__nv_bfloat16>("multiply_bf16"); }
TEST(mma_multiplies_f16) { check_multiply<__half>("multiply_f16"); }

TEST(ldmatrix_loads_both_ways) {
    std::vector<unsigned short> matrices;
    for (int i = 0; i < 256; i++) matrices.push_back(static_cast<unsigned short>(i * 251 + 7));
    Buffer<unsigned short> from(matrices);
    Buffer<unsigned> plain(128), transposed(128);
    OK(outcome("load_matrices", {1, 32}, from.address, plain.address, transposed.address));
    const auto p = plain.get(), t = transposed.get();
    for (int lane = 0; lane < 32; lane++) {
        for (int m = 0; m < 4; m++) {
            const auto at = [&](int r, int c) { return static_cast<unsigned>(matrices[m * 64 + r * 8 + c]); };
            const int row = lane / 4, col = lane % 4 * 2;
            EXPECT_IS(p[lane * 4 + m], at(row, col) | at(row, col + 1) << 16);
            EXPECT_IS(t[lane * 4 + m], at(col, row) | at(col + 1, row) << 16);
        }
    }
}

TEST(copies_arrive_with_the_wait_that_covers_them) {
    std::vector<float> values;
    for (int i = 0; i < 32 * 12; i++) values.push_back(static_cast<float>(i + 1));
    Buffer<float> from(values), out(32 * 12);
    for (int waits_for = 0; waits_for <= 3; waits_for++) {
        OK(outcome("copies_in_groups", {1, 32}, from.address, out.address, waits_for));
        const auto is = out.get();
        for (int i = 0; i < 32 * 12; i++) {
            const bool arrived = i % 12 / 4 < waits_for;
            EXPECT(arrived ? is[i] == values[i] : std::isnan(is[i]));
        }
    }
}

TEST(copies_that_are_not_valid_fill_with_zeros) {
    Buffer<float> out(4);
    OK(outcome("copies_nothing", {1, 1}, out.address));
    for (const float x : out.get()) EXPECT_IS(x, 0.0f);
}

TEST(copies_go_to_shared_memory_only) {
    Buffer<float> out(8);
    EXPECT_IS(outcome("copies_to_global", {1, 1}, out.address), CUDA_ERROR_INVALID_ADDRESS_SPACE);
}
