// A kernel of ours as the tests of the backend run it: norm against its formula in double.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "check.h"

static float element(int i) { return static_cast<float>(std::sin(i * 0.37) * 2.0); }

template <class T> static std::vector<T> elements(int count, int first) {
    std::vector<T> values;
    for (int i = 0; i < count; i++) values.push_back(T(element(first + i)));
    return values;
}

template <class T> static void check_norm(const char* kernel, double tolerance) {
    constexpr int ROWS = 5, COLS = 576;
    const auto residual = elements<T>(ROWS * COLS, 1), delta = elements<T>(ROWS * COLS, 9000), weight = elements<T>(COLS, 77);
    Buffer<T> on_device(residual), added(delta), weights(weight), out(ROWS * COLS);
    OK(outcome(kernel, {ROWS, 96}, on_device.address, added.address, weights.address, out.address, COLS, 1e-5f));
    const auto sums = on_device.get(), normed = out.get();
    double worst = 0.0;
    for (int row = 0; row < ROWS; row++) {
        double squares = 0.0;
        for (int i = row * COLS; i < (row + 1) * COLS; i++) {
            const float sum = float(T(float(residual[i]) + float(delta[i])));
            EXPECT(float(sums[i]) == sum);
            squares += static_cast<double>(sum) * sum;
        }
        const double scale = 1.0 / std::sqrt(squares / COLS + 1e-5);
        for (int i = 0; i < COLS; i++) {
            const double right = float(sums[row * COLS + i]) * scale * float(weight[i]);
            worst = std::max(worst, std::abs(float(normed[row * COLS + i]) - right));
        }
    }
    EXPECT(worst < tolerance);
}

TEST(norm_is_right_in_f32) { check_norm<float>("add_rms_norm_f32", 1e-5); }
TEST(norm_is_right_in_f16) { check_norm<__half>("add_rms_norm_f16", 4e-3); }
TEST(norm_is_right_in_bf16) { check_norm<__nv_bfloat16>("add_rms_norm_bf16", 3e-2); }
