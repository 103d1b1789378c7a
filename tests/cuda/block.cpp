// See block.h.
#include "block.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <mutex>
#include <numeric>
#include <utility>

namespace stand_in {

__thread Here here;

namespace {

constexpr size_t STACK = 64 * 1024, PAGE = 4096, STACKS_AT_ONCE = 32;
constexpr uint16_t NO_STACK = 0xffff;

__thread Block* own_block;

class Random {
public:
    explicit Random(uint64_t seed) : state(seed) {}
    unsigned below(unsigned end) {
        uint64_t x = state += 0x9e3779b97f4a7c15;
        x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
        x = (x ^ x >> 27) * 0x94d049bb133111eb;
        return static_cast<unsigned>(((x ^ x >> 31) >> 32) * end >> 32);
    }

private:
    uint64_t state;
};

// Blocks whose OS threads have ended. Never freed: threads may end after static variables are gone.
class IdleBlocks {
public:
    Block* take() {
        const std::lock_guard hold(lock);
        if (blocks.empty()) return new Block;
        Block* block = blocks.back();
        blocks.pop_back();
        return block;
    }
    void give_back(Block* block) {
        const std::lock_guard hold(lock);
        blocks.push_back(block);
    }

private:
    std::mutex lock;
    std::vector<Block*> blocks;
};

IdleBlocks& idle_blocks() {
    static IdleBlocks& all = *new IdleBlocks;
    return all;
}

struct AtThreadsEnd {
    AtThreadsEnd() {}
    ~AtThreadsEnd() { Block::give_back_own(); }
};

void* map(size_t bytes) {
    constexpr int FLAGS = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* room = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, FLAGS, -1, 0);
    if (room == MAP_FAILED) {
        perror("stand-in: mmap");
        abort();
    }
    return room;
}

} // namespace

unsigned Stacks::take() {
    if (!unused.empty()) {
        const unsigned stack = unused.back();
        unused.pop_back();
        return stack;
    }
    if (num_used == all.size()) {
        auto* room = static_cast<unsigned char*>(map(STACK * STACKS_AT_ONCE));
        for (size_t i = 0; i < STACKS_AT_ONCE; i++) {
            all.push_back(room + i * STACK);
            mprotect(all.back(), PAGE, PROT_NONE);
        }
    }
    return num_used++;
}

// Stacks end at different places of a page: what fibers use most would else share a few sets of a cache.
void* Stacks::top(unsigned stack) const { return all[stack] + STACK - stack * 320 % PAGE; }

size_t Stacks::room() const { return STACK - 2 * PAGE; }

bool Stacks::is_below(const void* address) const {
    const auto* at = static_cast<const unsigned char*>(address);
    const auto is_below = [at](const unsigned char* bottom) { return at >= bottom && at < bottom + PAGE; };
    return std::ranges::any_of(all, is_below);
}

unsigned char* Shared::place(size_t bytes) {
    const size_t wanted = (std::max<size_t>(bytes, 1) + PAGE - 1) / PAGE * PAGE;
    if (wanted > room) {
        if (mapped != nullptr) munmap(mapped, room + PAGE);
        mapped = static_cast<unsigned char*>(map(wanted + PAGE));
        room = wanted;
        mprotect(mapped + room, PAGE, PROT_NONE);
    }
    const size_t aligned = (bytes + 127) / 128 * 128;
    size = bytes;
    begin = mapped + room - aligned;
    memset(begin, POISON, aligned);
    return begin;
}

bool Shared::holds(const void* address, size_t bytes) const {
    const auto* at = static_cast<const unsigned char*>(address);
    return at >= begin && at + bytes <= begin + size;
}

void Order::shuffle(uint64_t seed, unsigned of_warps) {
    Random random(seed);
    const auto shuffled = [&](uint16_t* numbers, unsigned count) {
        std::iota(numbers, numbers + count, 0);
        for (unsigned i = count; i > 1; i--) std::swap(numbers[i - 1], numbers[random.below(i)]);
    };
    num_warps = of_warps;
    turn = 0;
    shuffled(warps, num_warps);
    shuffled(order, LANES);
    std::copy(order, order + LANES, order + LANES);
}

unsigned Order::lanes(unsigned warp, unsigned mask, uint16_t* to) {
    const uint16_t* from = order + turn++ % LANES;
    const unsigned first = warp * LANES;
    unsigned count = 0;
    // Without a branch: writes each lane, and keeps those of the mask.
    for (unsigned i = 0; i < LANES; i++) {
        to[count] = static_cast<uint16_t>(first + from[i]);
        count += mask >> from[i] & 1;
    }
    return count;
}

Block& Block::own() {
    if (own_block == nullptr) {
        own_block = idle_blocks().take();
        catch_faults(own_block->signal_stack);
        thread_local const AtThreadsEnd giving_back;
    }
    return *own_block;
}

void Block::give_back_own() {
    if (own_block == nullptr) return;
    leave_faults(own_block->signal_stack);
    idle_blocks().give_back(std::exchange(own_block, nullptr));
}

Block* Block::running() { return own_block != nullptr && own_block->is_running ? own_block : nullptr; }

void Block::name_threads(uint3 of) {
    size = of;
    num_threads = of.x * of.y * of.z;
    threads.resize(num_threads);
    stack_of.resize(num_threads);
    copies_of.resize(num_threads);
    warps.resize((num_threads + LANES - 1) / LANES);
    for (unsigned i = 0; i < num_threads; i++) {
        threads[i].identity = {{i % of.x, i / of.x % of.y, i / (of.x * of.y)}, i % LANES};
    }
    for (unsigned w = 0; w < warps.size(); w++) {
        const unsigned lanes = std::min(LANES, num_threads - w * LANES);
        warps[w].exist = lanes == LANES ? ~0u : (1u << lanes) - 1;
    }
}

void Block::prepare(const Launch& to_run, uint3 index) {
    static const long seed = setting("STAND_IN_SEED", 1);
    launch = &to_run;
    failure = 0;
    const uint3 wanted = to_run.block;
    if (size.x != wanted.x || size.y != wanted.y || size.z != wanted.z) name_threads(wanted);
    std::ranges::fill(stack_of, NO_STACK);
    for (Warp& warp : warps) warp.left = warp.num_meetings = 0;
    if (has_copied) std::ranges::fill(copies_of, Copies{});
    has_copied = false;
    if (to_run.is_early) has_waited.assign(num_threads, false);
    num_left = num_ready = num_arrived = 0;
    num_true = 0;
    barrier = nullptr;
    stacks.free_all();
    here.block = index;
    here.block_dim = to_run.block;
    here.grid_dim = to_run.grid;
    here.dynamic_shared = shared.place(to_run.shared_bytes);
    const Range fixed = to_run.kernel->static_shared();
    memset(fixed.begin, POISON, static_cast<size_t>(fixed.end - fixed.begin));
    const uint64_t place = index.x + to_run.grid.x * (index.y + static_cast<uint64_t>(to_run.grid.y) * index.z);
    order.shuffle(static_cast<uint64_t>(seed) * 0x2545f4914f6cdd1d + place, static_cast<unsigned>(warps.size()));
}

int Block::run(const Launch& to_run, uint3 index) {
    prepare(to_run, index);
    thread = nullptr;
    release_all();
    is_running = true;
    if (sigsetjmp(ended, 0) == 0) begin();
    is_running = false;
    return failure;
}

// The thread that runs next.
unsigned Block::next() {
    if (num_ready != 0) return ready[--num_ready];
    for (unsigned i = 0; i < num_threads; i++) {
        if ((warps[i / LANES].left >> i % LANES & 1) == 0) become(i);
    }
    stop(LAUNCH_FAILED, "waits for threads that wait elsewhere: a deadlock");
}

void Block::become(unsigned number) {
    thread = &threads[number];
    here.thread = thread->identity.index;
    here.lane = thread->identity.lane;
}

// From the OS thread's own stack to the first fiber's.
__attribute__((noinline)) void Block::begin() {
    become(next());
    const unsigned stack = stacks.take();
    stack_of[current()] = static_cast<uint16_t>(stack);
    make_fresh(thread->context, stacks.top(stack), stacks.room(), enter);
    switch_context(scheduler, thread->context);
}

// A fiber's life: threads one after another, since those that never wait need no stack of their own.
void Block::enter() {
    Block& block = *own_block;
    for (;;) {
        block.thread->waits_at = nullptr;
        block.launch->kernel->call(block.launch->arguments);
        block.leave();
    }
}

void Block::wait_for_those_before() {
    if (launch->is_early) has_waited[current()] = true;
}

// Otherwise the kernel after could begin while those before this one run, for which it does not wait.
void Block::let_dependents_begin() {
    if (!launch->is_early || has_waited[current()]) return;
    stop(LAUNCH_FAILED, "lets the next kernel begin (launch_dependents) before it has waited for those before");
}

// Ends the current thread, and goes on with a new one on its stack or with one that waited.
__attribute__((noinline)) void Block::leave() {
    const unsigned leaving = current(), lane = leaving % LANES;
    Warp& warp = warps[leaving / LANES];
    for (unsigned i = 0; i < warp.num_meetings; i++) {
        const bool is_awaited = warp.meetings[i].mask >> lane & 1;
        if (is_awaited) stop(LAUNCH_FAILED, "leaves, while lanes of its warp wait for it");
    }
    if (barrier != nullptr) stop(LAUNCH_FAILED, "leaves, while others wait for it at a barrier");
    if (launch->is_early && !has_waited[leaving]) stop(LAUNCH_FAILED, "never waits for the kernels before");
    warp.left |= 1u << lane;
    num_left++;
    Context& gone = thread->context;
    if (num_left == num_threads) switch_context(gone, scheduler);
    become(next());
    if (stack_of[current()] == NO_STACK) {
        stack_of[current()] = stack_of[leaving];
        return;
    }
    stacks.give_back(stack_of[leaving]);
    switch_context(gone, thread->context);
}

// Goes on with another thread of the block, until somebody makes this one ready again.
inline __attribute__((always_inline)) void Block::hand_over() {
    Thread& from = *thread;
    become(next());
    uint16_t& stack = stack_of[current()];
    if (stack == NO_STACK) {
        stack = static_cast<uint16_t>(stacks.take());
        make_fresh(thread->context, stacks.top(stack), stacks.room(), enter);
    }
    switch_context(from.context, thread->context);
}

inline Meeting& Block::meeting(Warp& warp, unsigned mask, const Collective& collective) {
    for (unsigned i = 0; i < warp.num_meetings; i++) {
        Meeting& open = warp.meetings[i];
        if ((open.mask & mask) == 0) continue;
        if (open.mask != mask) stop(LAUNCH_FAILED, "names other lanes than those that wait for it");
        if (open.collective != &collective) stop(LAUNCH_FAILED, "comes, while lanes of its warp wait elsewhere");
        return open;
    }
    Meeting& open = warp.meetings[warp.num_meetings++];
    open = {mask, 0, &collective};
    return open;
}

void Block::meet(unsigned mask, const Collective& collective, void* arguments) {
    const unsigned number = current() / LANES, lane = thread->identity.lane;
    Warp& warp = warps[number];
    thread->waits_at = collective.name;
    if ((mask >> lane & 1) == 0) stop(LAUNCH_FAILED, "is not in its own mask");
    if ((mask & warp.left) != 0) stop(LAUNCH_FAILED, "names lanes that have left");
    mask &= warp.exist;
    Meeting& open = meeting(warp, mask, collective);
    warp.arguments[lane] = arguments;
    open.arrived |= 1u << lane;
    if (open.arrived != mask) {
        hand_over();
        return;
    }
    close(warp, open);
    collective.complete(warp.arguments, mask);
    release(number, mask & ~(1u << lane));
}

int Block::meet_block(const char* name, bool predicate) {
    thread->waits_at = name;
    if (num_left != 0) stop(LAUNCH_FAILED, "comes to a barrier that other threads have left without");
    if (barrier != nullptr && barrier != name) stop(LAUNCH_FAILED, "comes, while others wait elsewhere");
    barrier = name;
    num_true += predicate;
    if (++num_arrived != num_threads) {
        hand_over();
        return barrier_result;
    }
    barrier_result = num_true;
    barrier = nullptr;
    num_arrived = 0;
    num_true = 0;
    release_all();
    return barrier_result;
}

// Makes all but the current thread ready, warp by warp.
void Block::release_all() {
    order.next_round();
    for (unsigned i = 0; i < warps.size(); i++) {
        const unsigned w = order.warp(i);
        const bool is_own = thread != nullptr && current() / LANES == w;
        release(w, is_own ? warps[w].exist & ~(1u << thread->identity.lane) : warps[w].exist);
    }
}

unsigned Block::active_lanes() const {
    const Warp& warp = warps[current() / LANES];
    return warp.exist & ~warp.left;
}

bool Block::is_shared(const void* address, size_t bytes) const {
    const auto* at = static_cast<const unsigned char*>(address);
    const Range fixed = launch->kernel->static_shared();
    return shared.holds(address, bytes) || (at >= fixed.begin && at + bytes <= fixed.end);
}

Copies& Block::copies() {
    has_copied = true;
    return copies_of[current()];
}

void Block::stop(int code, const char* message) {
    // A fault in what follows must end the process rather than come here again.
    is_running = false;
    failure = code;
    const uint3 b = here.block, t = here.thread;
    const char* at = thread->waits_at;
    char line[256];
    snprintf(line, sizeof line, "stand-in: kernel %s, block (%u, %u, %u), thread (%u, %u, %u)%s%s %s\n",
             launch->kernel->name, b.x, b.y, b.z, t.x, t.y, t.z, at ? " at " : "", at ? at : "", message);
    // A signal's stack may be too small for a stream.
    if (write(STDERR_FILENO, line, strlen(line)) < 0) abort();
    siglongjmp(ended, 1);
}

int run_block(const Launch& launch, uint3 index) { return Block::own().run(launch, index); }

void meet(unsigned mask, const Collective& collective, void* arguments) {
    own_block->meet(mask, collective, arguments);
}
int meet_block(const char* name, bool predicate) { return own_block->meet_block(name, predicate); }
unsigned active_lanes() { return own_block->active_lanes(); }
bool is_shared(const void* address, size_t bytes) { return own_block->is_shared(address, bytes); }
void fail(int code, const char* message) { own_block->stop(code, message); }

} // namespace stand_in
