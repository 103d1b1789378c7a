// Matrices of 4- and 8-bit codes, as `src/cuda/quantized/layout.rs` packs them: tiles of 16 rows and 64
// columns in the order in which the lanes of a warp take them for m16n8k16, so that each load is of 512
// bytes in a row.
//
// Lane 4 g + t has of rows g and g + 8 and of each of the tile's two groups of 32 columns 8 codes: those of
// columns 8 t and on, or in halves, of columns 4 t and on and 16 + 4 t and on. After the tile's codes follow
// two half floats for each row and group: scale and minimum, or the scales of the halves.
#pragma once

#include "prelude.cuh"

enum class Form {
    // code * scale + minimum
    W4,
    W8,
    // (code - 128) * scale of the half of 16
    W8Halves,
};

constexpr int TILE_ROWS = 16;
constexpr int TILE_COLS = 64;
constexpr int GROUP = 32;

template <Form F> constexpr int LOADS = F == Form::W4 ? 1 : 2;
template <Form F> constexpr int CODE_BYTES = 512 * LOADS<F>;
template <Form F> constexpr int TILE_BYTES = CODE_BYTES<F> + 128;

// What a lane has of a tile.
template <Form F> struct Tile {
    Pack<uint32_t, 4> codes[LOADS<F>];
    // Of rows g and g + 8 in the first group, then in the second.
    Pack<uint32_t, 4> scales;
};

__device__ __forceinline__ Pack<uint32_t, 4> as_words(uint4 x) { return {{x.x, x.y, x.z, x.w}}; }

struct Matrix {
    const unsigned char* tiles;
    int num_tiles; // in a row

    template <Form F> __device__ __forceinline__ const unsigned char* at(int row, int tile) const {
        return tiles + (static_cast<int64_t>(row) * num_tiles + tile) * TILE_BYTES<F>;
    }

    // One of several matrices of `n` rows, which follow each other.
    template <Form F> __device__ __forceinline__ Matrix of_expert(uint32_t expert, int n) const {
        const int64_t rows = static_cast<int64_t>(expert) * ((n + TILE_ROWS - 1) / TILE_ROWS);
        return {tiles + rows * num_tiles * TILE_BYTES<F>, num_tiles};
    }
};

__device__ __forceinline__ Matrix matrix_of(const unsigned char* tiles, int k) {
    return {tiles, (k + TILE_COLS - 1) / TILE_COLS};
}

// Tokens in order: rows of y of `stride` elements.
template <class Out> struct Target {
    Out* y;
    int rows, n, stride, accumulate;

    __device__ __forceinline__ bool has(int row, int feature) const { return row < rows && feature < n; }
    __device__ __forceinline__ void put(int row, int feature, float sum) const {
        Out* to = y + static_cast<int64_t>(row) * stride + feature;
        *to = from_float<Out>(accumulate ? to_float(*to) + sum : sum);
    }
};

template <Form F> __device__ __forceinline__ Tile<F> load_tile(const unsigned char* tile, int lane) {
    Tile<F> to;
#pragma unroll
    for (int i = 0; i < LOADS<F>; i++) to.codes[i] = as_words(load_once(tile + i * 512 + lane * 16));
    to.scales = as_words(load_once(tile + CODE_BYTES<F> + lane / 4 * 16));
    return to;
}

// Begins to copy a tile to shared memory, a warp together.
template <Form F>
__device__ __forceinline__ void copy_tile(unsigned char* to, const unsigned char* tile, int lane) {
#pragma unroll
    for (int i = 0; i < LOADS<F>; i++) cp_async_16(to + i * 512 + lane * 16, tile + i * 512 + lane * 16, true);
    if (lane < 8) cp_async_16(to + CODE_BYTES<F> + lane * 16, tile + CODE_BYTES<F> + lane * 16, true);
}

// What a lane has of a copied tile.
template <Form F> __device__ __forceinline__ Tile<F> read_tile(const unsigned char* tile, int lane) {
    const auto load = [&](int offset) {
        return *reinterpret_cast<const Pack<uint32_t, 4>*>(tile + offset);
    };
    Tile<F> to;
#pragma unroll
    for (int i = 0; i < LOADS<F>; i++) to.codes[i] = load(i * 512 + lane * 16);
    to.scales = load(CODE_BYTES<F> + lane / 4 * 16);
    return to;
}

// The two half floats of row g + 8 `high` in a group.
template <Form F> __device__ __forceinline__ float2 scales_of(const Tile<F>& tile, int group, int high) {
    const uint32_t word = tile.scales.at[2 * group + high];
    const auto half = [](uint32_t bits) {
        return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
    };
    return make_float2(half(word & 0xffff), half(word >> 16));
}

// The first column of the `i`-th four codes of a lane, in a group.
template <Form F> __device__ __forceinline__ int first_col(int lane, int i) {
    return F == Form::W8Halves ? 16 * i + 4 * (lane % 4) : 8 * (lane % 4) + 4 * i;
}

// The lane's `i`-th four elements of row g + 8 `high` in a group.
template <Form F>
__device__ __forceinline__ Pack<float, 4> elements(const Tile<F>& tile, int group, int high, int i) {
    const float2 scales = scales_of(tile, group, high);
    Pack<float, 4> to;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        if (F == Form::W4) {
            const uint32_t code = tile.codes[0].at[2 * group + high] >> (8 * i + j / 2 * 4 + j % 2 * 16) & 15;
            to.at[j] = fmaf(static_cast<float>(code), scales.x, scales.y);
            continue;
        }
        const uint32_t word = tile.codes[LOADS<F> - 1 == 0 ? 0 : group].at[2 * high + i];
        const float code = static_cast<float>(word >> (j / 2 * 8 + j % 2 * 16) & 255);
        to.at[j] = F == Form::W8 ? fmaf(code, scales.x, scales.y)
                                 : (code - 128.0f) * (i == 0 ? scales.x : scales.y);
    }
    return to;
}

// Codes become floats without conversions: as the low bits of a mantissa whose exponent makes them count
// as ones, they are the code and a power of two (as in Marlin, Frantar et al., 2024). What is added is
// subtracted from the sum at once: that power times the sum of x.
//
// `OFFSET` is a pair of what is added, negative, and of what a code stands for above its value.
template <class T, Form F> struct Added;
template <> struct Added<bf16, Form::W4> {
    static constexpr uint32_t OFFSET = 0xc300c300; // 128
    static constexpr float VALUE = -128.0f;
};
template <> struct Added<f16, Form::W4> {
    static constexpr uint32_t OFFSET = 0xd400d400; // 64
    static constexpr float VALUE = -64.0f;
};
template <> struct Added<bf16, Form::W8> {
    static constexpr uint32_t OFFSET = 0xc3c0c3c0; // 128 + 256
    static constexpr float VALUE = -384.0f;
};
template <> struct Added<f16, Form::W8> {
    static constexpr uint32_t OFFSET = 0xe400e400; // 1024
    static constexpr float VALUE = -1024.0f;
};
template <> struct Added<bf16, Form::W8Halves> {
    static constexpr uint32_t OFFSET = 0xc400c400; // 128 + 256 + 128
    static constexpr float VALUE = -512.0f;
};
template <> struct Added<f16, Form::W8Halves> {
    static constexpr uint32_t OFFSET = 0xe480e480; // 1024 + 128
    static constexpr float VALUE = -1152.0f;
};

// The `j`-th pair of eight 4-bit codes.
__device__ __forceinline__ uint32_t pair_4(uint32_t codes, int j, bf16) {
    return and_or<0x000f000f, 0x43004300>(codes >> (4 * j));
}
__device__ __forceinline__ uint32_t pair_4(uint32_t codes, int j, f16) {
    return and_or<0x00f000f0, 0x54005400>(j == 0 ? codes << 4 : codes >> (4 * j - 4));
}

// sums += codes x of 16 columns, the `step`-th of a group. b: x there.
template <class T, Form F>
__device__ __forceinline__ void multiply_codes(float (&sums)[4], const Tile<F>& tile, int group, int step,
                                               const uint32_t (&b)[2]) {
    if constexpr (F == Form::W4) {
        const uint32_t low = tile.codes[0].at[2 * group], high = tile.codes[0].at[2 * group + 1];
        const uint32_t a[4] = {pair_4(low, 2 * step, T{}), pair_4(high, 2 * step, T{}),
                               pair_4(low, 2 * step + 1, T{}), pair_4(high, 2 * step + 1, T{})};
        mma_16816(sums, a, b, T{});
        return;
    }
    const Pack<uint32_t, 4>& codes = tile.codes[LOADS<F> - 1 == 0 ? 0 : group];
    const uint32_t low = codes.at[step], high = codes.at[2 + step];
    if constexpr (sizeof(T{}) == 2 && Added<T, Form::W8>::VALUE == -1024.0f) {
        const auto pair = [](uint32_t word) { return and_or<0x00ff00ff, 0x64006400>(word); };
        mma_16816(sums, {pair(low), pair(high), pair(low >> 8), pair(high >> 8)}, b, T{});
    } else {
        // Its mantissa has no room for 8 bits beside the exponent's one: 4 and 4.
        const auto units = [](uint32_t word) { return and_or<0x000f000f, 0x43004300>(word); };
        const auto sixteens = [](uint32_t word) { return and_or<0x00780078, 0x43804380>(word); };
        mma_16816(sums, {units(low), units(high), units(low >> 8), units(high >> 8)}, b, T{});
        mma_16816(sums, {sixteens(low >> 1), sixteens(high >> 1), sixteens(low >> 9), sixteens(high >> 9)},
                  b, T{});
    }
}
