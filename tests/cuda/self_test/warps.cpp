// Shuffles, votes, barriers, atomics and words: what threads of a block do together, each against a formula.
#include <set>

#include "check.h"

TEST(shuffles_move_values_between_lanes) {
    Buffer<int> out(32 * 6);
    OK(outcome("shuffles", {1, 32}, out.address));
    const auto is = out.get();
    for (int lane = 0; lane < 32; lane++) {
        const int wanted[] = {7,
                              lane < 3 ? lane : lane - 3,
                              lane > 26 ? lane : lane + 5,
                              lane ^ 9,
                              lane / 8 * 8 + 2,
                              lane % 8 > 4 ? lane : lane + 3};
        for (int i = 0; i < 6; i++) EXPECT_IS(is[lane * 6 + i], wanted[i]);
    }
}

TEST(shuffles_know_wide_types_and_half_warps) {
    Buffer<double> doubles(32);
    Buffer<unsigned long long> longs(32);
    Buffer<float> floats(32);
    OK(outcome("wide_shuffles", {1, 32}, doubles.address, longs.address, floats.address));
    const auto d = doubles.get();
    const auto l = longs.get();
    const auto f = floats.get();
    for (unsigned lane = 0; lane < 32; lane++) {
        EXPECT_IS(d[lane], (lane ^ 1) * 1.5);
        EXPECT_IS(l[lane], (1ull << 40) + (lane ^ 31));
        EXPECT_IS(f[lane], lane < 16 ? (lane ^ 2) * 0.5f : (lane ^ 4) * 0.25f);
    }
}

TEST(votes_count_all_lanes) {
    Buffer<unsigned> out(32 * 9);
    OK(outcome("votes", {1, 32}, out.address));
    const auto is = out.get();
    unsigned thirds = 0, alike[5] = {};
    for (unsigned lane = 0; lane < 32; lane++) {
        if (lane % 3 == 0) thirds |= 1u << lane;
        alike[lane % 5] |= 1u << lane;
    }
    for (unsigned lane = 0; lane < 32; lane++) {
        const unsigned wanted[] = {thirds, 1, 0, alike[lane % 5], 31 * 16, static_cast<unsigned>(-9), 3, 5, ~0u};
        for (int i = 0; i < 9; i++) EXPECT_IS(is[lane * 9 + i], wanted[i]);
    }
}

TEST(block_votes_count_all_threads) {
    Buffer<int> out(96 * 3);
    OK(outcome("block_votes", {1, 96}, out.address));
    const auto is = out.get();
    for (int thread = 0; thread < 96; thread++) {
        EXPECT_IS(is[thread * 3], 32);
        EXPECT_IS(is[thread * 3 + 1], 1);
        EXPECT_IS(is[thread * 3 + 2], 0);
    }
}

TEST(barriers_hold_all_threads_of_many_blocks) {
    constexpr int BLOCKS = 300, THREADS = 256;
    Buffer<int> out(BLOCKS * THREADS);
    OK(outcome("reverses", {BLOCKS, THREADS}, out.address));
    const auto is = out.get();
    int wrong = 0;
    for (int i = 0; i < BLOCKS * THREADS; i++) wrong += is[i] != i % THREADS + 10;
    EXPECT_IS(wrong, 0);
}

static int num_wrong(const char* kernel, int threads) {
    Buffer<int> out(threads);
    OK(outcome(kernel, {1, static_cast<unsigned>(threads)}, out.address));
    const auto is = out.get();
    int wrong = 0;
    for (int i = 0; i < threads; i++) wrong += is[i] != (threads == 32 ? i ^ 1 : threads - 1 - i);
    return wrong;
}

TEST(missing_barriers_show) {
    EXPECT(num_wrong("reverses_without_barriers", 256) > 0);
    EXPECT(num_wrong("forgets_second_barrier", 256) > 0);
    EXPECT(num_wrong("forgets_syncwarp", 32) > 0);
}

TEST(divergence_ends_the_launch) {
    Buffer<int> out(64);
    EXPECT_IS(outcome("half_leaves", {1, 64}, out.address), CUDA_ERROR_LAUNCH_FAILED);
    EXPECT_IS(outcome("lanes_leave", {1, 32}, out.address), CUDA_ERROR_LAUNCH_FAILED);
    EXPECT_IS(outcome("waits_at_two_places", {1, 32}, out.address), CUDA_ERROR_LAUNCH_FAILED);
    EXPECT_IS(outcome("disagrees_on_collective", {1, 32}, out.address), CUDA_ERROR_LAUNCH_FAILED);
    EXPECT_IS(outcome("disagrees_on_mask", {1, 32}, out.address), CUDA_ERROR_LAUNCH_FAILED);
    EXPECT_IS(outcome("is_not_in_its_mask", {1, 32}, out.address), CUDA_ERROR_LAUNCH_FAILED);
    // What was in the way is gone.
    OK(outcome("reverses", {1, 64}, out.address));
}

TEST(shared_memory_begins_as_nan_in_each_block) {
    Buffer<float> out(64);
    for (int round = 0; round < 2; round++) {
        OK(outcome("reads_unset_static_shared", {4, 64}, out.address));
        for (const float x : out.get()) EXPECT(std::isnan(x));
        OK(outcome("reads_dynamic_shared", {4, 64, 64 * sizeof(float)}, out.address, 5));
        for (const float x : out.get()) EXPECT(std::isnan(x));
    }
}

TEST(atomics_lose_nothing_between_blocks) {
    constexpr unsigned BLOCKS = 4000, THREADS = 64, ALL = BLOCKS * THREADS;
    Buffer<int> ints(std::vector<int>{0, 0});
    Buffer<float> floats(std::vector<float>{0.0f});
    Buffer<unsigned> wrapped(std::vector<unsigned>{0});
    Buffer<unsigned long long> most(std::vector<unsigned long long>{0});
    OK(outcome("counts", {BLOCKS, THREADS}, ints.address, floats.address, wrapped.address, most.address));
    EXPECT_IS(ints.get()[0], static_cast<int>(2 * ALL));
    EXPECT_IS(ints.get()[1], static_cast<int>(3 * ALL));
    EXPECT_IS(floats.get()[0], ALL * 0.5f);
    EXPECT_IS(wrapped.get()[0], ALL % 10);
    EXPECT_IS(most.get()[0], ALL - 1ull);
}

TEST(words_are_computed_as_the_manual_says) {
    Buffer<int> out(16);
    OK(outcome("words", {1, 1}, out.address));
    const auto is = out.get();
    // 1 * 2 - 1 * 3 + 127 * 4 - 128 * 5 + 100
    EXPECT_IS(is[0], -33);
    EXPECT_IS(is[1], -33);
    EXPECT_IS(is[2], static_cast<int>(0x80ff7c7fu));
    EXPECT_IS(is[3], static_cast<int>(0x66115522u));
    EXPECT_IS(is[4], 9);
    EXPECT_IS(is[5], 5);
    EXPECT_IS(is[6], 8);
    EXPECT_IS(is[7], static_cast<int>(0xc0000000u));
    EXPECT_IS(is[8], 0x38000000);
    EXPECT_IS(is[9], 2);
    EXPECT_IS(is[10], static_cast<int>(0x80000000u));
    EXPECT_IS(is[11], static_cast<int>(0xc0000000u));
    EXPECT_IS(is[12], 3);
    EXPECT_IS(is[13], static_cast<int>(0xff00ff00u));
    EXPECT_IS(is[14], 3);
    EXPECT_IS(is[15], static_cast<int>(0x7f017c7bu));
}

TEST(threads_and_blocks_have_three_dimensions) {
    constexpr unsigned COUNT = 2 * 3 * 2 * (4 * 3 * 2);
    Buffer<unsigned> out(COUNT);
    void* arguments[] = {&out.address};
    OK(cuLaunchKernel(function("says_who_it_is"), 2, 3, 2, 4, 3, 2, 0, nullptr, arguments, nullptr));
    unsigned i = 0;
    const auto is = out.get();
    for (unsigned block = 0; block < 12; block++) {
        for (unsigned thread = 0; thread < 24; thread++) {
            const unsigned wanted = thread % 4 | thread / 4 % 3 << 4 | thread / 12 << 8 | block % 2 << 12 |
                                    block / 2 % 3 << 16 | block / 6 << 20;
            EXPECT_IS(is[i++], wanted);
        }
    }
}
