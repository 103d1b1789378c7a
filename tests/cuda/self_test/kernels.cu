// Kernels of the stand-in's own tests: right ones, and wrong ones that must be found out.
#include "prelude.cuh"

extern "C" __global__ void shuffles(int* out) {
    const int lane = threadIdx.x;
    int* own = out + lane * 6;
    own[0] = __shfl_sync(FULL_WARP, lane, 7);
    own[1] = __shfl_up_sync(FULL_WARP, lane, 3);
    own[2] = __shfl_down_sync(FULL_WARP, lane, 5);
    own[3] = __shfl_xor_sync(FULL_WARP, lane, 9);
    own[4] = __shfl_sync(FULL_WARP, lane, 2, 8);
    own[5] = __shfl_down_sync(FULL_WARP, lane, 3, 8);
}
SCONCE_KERNEL(shuffles)

// Of 64 bits, of float, and between the lanes of half a warp.
extern "C" __global__ void wide_shuffles(double* doubles, unsigned long long* longs, float* floats) {
    const unsigned lane = threadIdx.x, half = lane < 16 ? 0xffffu : 0xffff0000u;
    doubles[lane] = __shfl_xor_sync(FULL_WARP, lane * 1.5, 1);
    longs[lane] = __shfl_xor_sync(FULL_WARP, (1ull << 40) + lane, 31);
    floats[lane] = lane < 16 ? __shfl_xor_sync(half, lane * 0.5f, 2) : __shfl_xor_sync(half, lane * 0.25f, 4);
}
SCONCE_KERNEL(wide_shuffles)

extern "C" __global__ void votes(unsigned* out) {
    const unsigned lane = threadIdx.x;
    unsigned* own = out + lane * 9;
    own[0] = __ballot_sync(FULL_WARP, lane % 3 == 0);
    own[1] = __any_sync(FULL_WARP, lane == 31);
    own[2] = __all_sync(FULL_WARP, lane < 31);
    own[3] = __match_any_sync(FULL_WARP, lane % 5);
    own[4] = __reduce_add_sync(FULL_WARP, lane);
    own[5] = __reduce_max_sync(FULL_WARP, static_cast<int>(lane) - 40);
    own[6] = __reduce_min_sync(FULL_WARP, lane + 3);
    own[7] = __reduce_or_sync(FULL_WARP, lane & 5);
    own[8] = __activemask();
    __syncwarp();
}
SCONCE_KERNEL(votes)

extern "C" __global__ void block_votes(int* out) {
    int* own = out + threadIdx.x * 3;
    own[0] = __syncthreads_count(threadIdx.x % 3 == 0);
    own[1] = __syncthreads_or(threadIdx.x == 77);
    own[2] = __syncthreads_and(threadIdx.x != 77);
}
SCONCE_KERNEL(block_votes)

// Each thread writes, and another reads, ten times over.
extern "C" __global__ void reverses(int* out) {
    __shared__ int room[256];
    int x = threadIdx.x;
    for (int i = 0; i < 10; i++) {
        room[threadIdx.x] = x;
        __syncthreads();
        x = room[blockDim.x - 1 - threadIdx.x] + 1;
        __syncthreads();
    }
    out[blockIdx.x * blockDim.x + threadIdx.x] = x;
}
SCONCE_KERNEL(reverses)

extern "C" __global__ void reverses_without_barriers(int* out) {
    __shared__ int room[256];
    room[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = room[blockDim.x - 1 - threadIdx.x];
}
SCONCE_KERNEL(reverses_without_barriers)

// Right before the second barrier, wrong after it.
extern "C" __global__ void forgets_second_barrier(int* out) {
    __shared__ int room[256];
    room[threadIdx.x] = threadIdx.x;
    __syncthreads();
    const int x = room[blockDim.x - 1 - threadIdx.x];
    room[threadIdx.x] = -1;
    __syncthreads();
    out[threadIdx.x] = x;
}
SCONCE_KERNEL(forgets_second_barrier)

extern "C" __global__ void forgets_syncwarp(int* out) {
    __shared__ int room[32];
    room[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = room[threadIdx.x ^ 1];
}
SCONCE_KERNEL(forgets_syncwarp)

extern "C" __global__ void reads_unset_static_shared(float* out) {
    __shared__ float room[64];
    out[threadIdx.x] = room[threadIdx.x];
    __syncthreads();
    room[threadIdx.x] = 1.0f;
}
SCONCE_KERNEL(reads_unset_static_shared)

extern "C" __global__ void reads_dynamic_shared(float* out, int index) {
    SCONCE_DYNAMIC_SHARED(float, room);
    out[threadIdx.x] = room[index];
    __syncthreads();
    room[threadIdx.x] = 1.0f;
}
SCONCE_KERNEL(reads_dynamic_shared)

extern "C" __global__ void half_leaves(int* out) {
    if (threadIdx.x >= 32) return;
    __syncthreads();
    out[threadIdx.x] = 1;
}
SCONCE_KERNEL(half_leaves)

extern "C" __global__ void lanes_leave(int* out) {
    if (threadIdx.x >= 16) return;
    out[threadIdx.x] = __shfl_xor_sync(FULL_WARP, 1, 1);
}
SCONCE_KERNEL(lanes_leave)

extern "C" __global__ void waits_at_two_places(int* out) {
    if (threadIdx.x < 16) {
        out[threadIdx.x] = __shfl_xor_sync(FULL_WARP, 1, 1);
    } else {
        __syncthreads();
    }
}
SCONCE_KERNEL(waits_at_two_places)

extern "C" __global__ void disagrees_on_collective(int* out) {
    out[threadIdx.x] = threadIdx.x < 16 ? __any_sync(FULL_WARP, 1) : __all_sync(FULL_WARP, 1);
}
SCONCE_KERNEL(disagrees_on_collective)

extern "C" __global__ void disagrees_on_mask(int* out) {
    out[threadIdx.x] = threadIdx.x < 16 ? __any_sync(FULL_WARP, 1) : __any_sync(0xffff0000u, 1);
}
SCONCE_KERNEL(disagrees_on_mask)

extern "C" __global__ void is_not_in_its_mask(int* out) { out[threadIdx.x] = __any_sync(0x0000ffffu, 1); }
SCONCE_KERNEL(is_not_in_its_mask)

// Loads a [16, 16] and b [8, 16] as the manual lays out their fragments, by plain loads.
template <class T> __device__ void multiply(const T* a, const T* b, float* d) {
    const int group = threadIdx.x / 4, pair = threadIdx.x % 4 * 2;
    const auto two = [](const T* at) { return *reinterpret_cast<const uint32_t*>(at); };
    const uint32_t left[4] = {two(a + group * 16 + pair), two(a + (group + 8) * 16 + pair),
                              two(a + group * 16 + pair + 8), two(a + (group + 8) * 16 + pair + 8)};
    const uint32_t right[2] = {two(b + group * 16 + pair), two(b + group * 16 + pair + 8)};
    float sums[4] = {1000.0f, 1000.0f, 1000.0f, 1000.0f};
    mma_16816(sums, left, right, T());
    d[group * 8 + pair] = sums[0];
    d[group * 8 + pair + 1] = sums[1];
    d[(group + 8) * 8 + pair] = sums[2];
    d[(group + 8) * 8 + pair + 1] = sums[3];
}

extern "C" __global__ void multiply_bf16(const bf16* a, const bf16* b, float* d) { multiply(a, b, d); }
SCONCE_KERNEL(multiply_bf16)
extern "C" __global__ void multiply_f16(const f16* a, const f16* b, float* d) { multiply(a, b, d); }
SCONCE_KERNEL(multiply_f16)

// Four 8 x 8 matrices, one after another, to each lane's four registers.
extern "C" __global__ void load_matrices(const unsigned short* matrices, unsigned* plain, unsigned* transposed) {
    __shared__ __align__(16) unsigned short room[256];
    for (int i = threadIdx.x; i < 256; i += 32) room[i] = matrices[i];
    __syncthreads();
    uint32_t to[4];
    ldmatrix_x4(to, room + threadIdx.x * 8);
    for (int i = 0; i < 4; i++) plain[threadIdx.x * 4 + i] = to[i];
    ldmatrix_x4_trans(to, room + threadIdx.x * 8);
    for (int i = 0; i < 4; i++) transposed[threadIdx.x * 4 + i] = to[i];
}
SCONCE_KERNEL(load_matrices)

// Copies in three groups, of which the last may be unfinished: it waits for `waits_for` groups of the three.
extern "C" __global__ void copies_in_groups(const float* from, float* out, int waits_for) {
    __shared__ __align__(16) float room[32 * 12];
    float* own = room + threadIdx.x * 12;
    for (int group = 0; group < 3; group++) {
        cp_async_16(own + group * 4, from + threadIdx.x * 12 + group * 4, true);
        cp_async_commit();
    }
    if (waits_for == 1) cp_async_wait<2>();
    if (waits_for == 2) cp_async_wait<1>();
    if (waits_for == 3) cp_async_wait<0>();
    for (int i = 0; i < 12; i++) out[threadIdx.x * 12 + i] = own[i];
}
SCONCE_KERNEL(copies_in_groups)

extern "C" __global__ void copies_nothing(float* out) {
    __shared__ __align__(16) float room[4];
    cp_async_16(room, nullptr, false);
    cp_async_commit();
    cp_async_wait<0>();
    for (int i = 0; i < 4; i++) out[i] = room[i];
}
SCONCE_KERNEL(copies_nothing)

extern "C" __global__ void copies_to_global(float* out) { cp_async_16(out, out + 4, true); }
SCONCE_KERNEL(copies_to_global)

extern "C" __global__ void counts(int* ints, float* floats, unsigned* wrapped, unsigned long long* most) {
    __shared__ int within;
    if (threadIdx.x == 0) within = 0;
    __syncthreads();
    atomicAdd(&within, 2);
    __syncthreads();
    if (threadIdx.x == 0) atomicAdd(ints, within);
    atomicAdd(floats, 0.5f);
    atomicInc(wrapped, 9);
    atomicMax(most, static_cast<unsigned long long>(blockIdx.x) * blockDim.x + threadIdx.x);
    for (int seen = ints[1];;) {
        const int was = atomicCAS(ints + 1, seen, seen + 3);
        if (was == seen) break;
        seen = was;
    }
}
SCONCE_KERNEL(counts)

// Words of four bytes, bits and rounding; the values to expect are computed by hand.
extern "C" __global__ void words(int* out) {
    out[0] = __dp4a(0x01ff7f80, 0x02030405, 100);
    out[1] = dot_4(0x01ff7f80, 0x02030405, 100);
    out[2] = static_cast<int>(__vsubss4(0x80017f05u, 0x01020380u));
    out[3] = static_cast<int>(__byte_perm(0x33221100u, 0x77665544u, 0x6152u));
    out[4] = __popc(0xf0f1u);
    out[5] = __ffs(0x50);
    out[6] = __clz(0x00ffffff);
    out[7] = static_cast<int>(__brev(0x00000003u));
    out[8] = static_cast<int>(__funnelshift_r(0x80000001u, 0x00000003u, 4));
    out[9] = __float2int_rn(2.5f);
    out[10] = __float2int_rn(-1e20f);
    out[11] = __float_as_int(-2.0f);
    out[12] = static_cast<int>(__umulhi(0x80000000u, 6u));
    out[13] = static_cast<int>(__vcmpgtu4(0x80017f05u, 0x01020380u));
    out[14] = min(-1, 2) + max(3, 4);
    out[15] = static_cast<int>(__vabsdiffu4(0x80017f05u, 0x01020380u));
}
SCONCE_KERNEL(words)

extern "C" __global__ void add(const float* a, const float* b, float* out, int count) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) out[i] = a[i] + b[i];
}
SCONCE_KERNEL(add)

extern "C" __global__ void writes_at(float* out, long long index) { out[index] = 1.0f; }
SCONCE_KERNEL(writes_at)

extern "C" __global__ void loads_pack(const float* from, float* out) {
    store_pack(out, load_pack<float>(from));
}
SCONCE_KERNEL(loads_pack)

extern "C" __global__ void leaves_static_array(float* out, int index) {
    __shared__ float room[8];
    room[index] = 1.0f;
    out[0] = room[0];
}
SCONCE_KERNEL(leaves_static_array)

__device__ int descend(int depth) {
    volatile char room[1024];
    room[depth % 1024] = static_cast<char>(depth);
    return depth == 0 ? 0 : descend(depth - 1) + room[depth % 1024];
}
extern "C" __global__ void uses_up_its_stack(int* out) { out[0] = descend(1000); }
SCONCE_KERNEL(uses_up_its_stack)

extern "C" __global__ void says_who_it_is(unsigned* out) {
    const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    const unsigned number = block * blockDim.x * blockDim.y * blockDim.z + thread;
    __syncthreads();
    const unsigned who = threadIdx.x | threadIdx.y << 4 | threadIdx.z << 8;
    out[number] = who | blockIdx.x << 12 | blockIdx.y << 16 | blockIdx.z << 20;
}
SCONCE_KERNEL(says_who_it_is)

// As kernels do that are launched before the one before has ended, and as they must not.
extern "C" __global__ void waits_for_those_before(float* out) {
    wait_for_dependencies();
    launch_dependents();
    if (threadIdx.x == 0) out[blockIdx.x] = 1.0f;
}
SCONCE_KERNEL(waits_for_those_before)

extern "C" __global__ void waits_in_some_threads(float* out) {
    if (threadIdx.x == 40) return;
    wait_for_dependencies();
    out[0] = 1.0f;
}
SCONCE_KERNEL(waits_in_some_threads)

extern "C" __global__ void lets_dependents_begin_too_early(float* out) {
    launch_dependents();
    wait_for_dependencies();
    out[0] = 1.0f;
}
SCONCE_KERNEL(lets_dependents_begin_too_early)
