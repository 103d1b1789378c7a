// Runs a block: each of its threads is a fiber with its own stack, all on one OS thread. Where a thread must
// wait for others it hands over to the next that can run; one that comes last at a meeting point does the
// meeting's work and makes the others ready again. The order among those that can run comes from a seed.
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <bit>
#include <map>
#include <memory>
#include <numeric>
#include <vector>

#include "runtime.h"
#include "switch.h"

namespace stand_in {

__thread Here here;

namespace {

constexpr size_t STACK = 64 * 1024, PAGE = 4096, STACKS_AT_ONCE = 32;
constexpr int MAX_THREADS = 1024, LANES = 32;
// Shared memory that nobody wrote reads as this: NaN in every float type.
constexpr int POISON = 0xff;

struct Copy {
    void* to;
    const void* from;
    bool valid;
    int group;
};

struct Fiber {
    Context context;
    uint3 index;
    uint16_t warp, lane;
    bool has_left;
    const char* waits_at;
    int open_group;
    std::vector<Copy> copies;
};

// Lanes that wait for the others of their mask.
struct Meeting {
    unsigned mask, arrived;
    const Collective* collective;
};

struct Warp {
    unsigned exist, left;
    int num_meetings;
    Meeting meetings[LANES];
    void* arguments[LANES];
};

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

class Block {
public:
    int run(const Launch& launch, uint3 index);
    void meet(unsigned mask, const Collective& collective, void* arguments);
    int meet_block(const char* name, bool predicate);
    unsigned active_lanes() const { return warps[current->warp].exist & ~warps[current->warp].left; }
    bool is_shared(const void* address, size_t bytes) const;
    Fiber& fiber() { return *current; }
    [[noreturn]] void stop(int code, const char* message);
    bool is_running() const { return running; }
    bool is_past_stack(const void* address) const;

private:
    void prepare(const Launch& launch, uint3 index);
    void place_shared(size_t bytes);
    void shuffle_order(Random& random);
    Meeting& meeting(Warp& warp, unsigned mask, const Collective& collective);
    void release(unsigned warp, unsigned mask);
    void release_all();
    void push(unsigned thread) { ready[num_ready++] = static_cast<uint16_t>(thread); }
    void hand_over();
    void begin();
    [[noreturn]] static void enter();
    unsigned char* stack(unsigned thread) const { return stacks[thread]; }

    const Launch* launch = nullptr;
    bool running = false;
    int failure = 0;
    sigjmp_buf ended;
    Context scheduler;
    Fiber* current = nullptr;
    unsigned num_threads = 0, num_left = 0;
    std::vector<Fiber> fibers;
    std::vector<unsigned char*> stacks;
    std::vector<Warp> warps;
    // Threads that can run, the next one last.
    uint16_t ready[MAX_THREADS];
    unsigned num_ready = 0;
    uint16_t warp_order[LANES], lane_order[LANES];
    unsigned turn = 0;
    const char* barrier = nullptr;
    unsigned num_arrived = 0;
    int num_true = 0, barrier_result = 0;
    unsigned char* shared = nullptr;
    size_t shared_room = 0, shared_bytes = 0;
};

thread_local std::unique_ptr<Block> own_block;
__thread Block* block __attribute__((tls_model("initial-exec")));

// Stacks end at different places of a page, since what the fibers use most would otherwise share a few
// sets of the first cache.
void* top(unsigned char* stack, unsigned thread) { return stack + STACK - thread * 320 % PAGE; }

void Block::prepare(const Launch& to_run, uint3 index) {
    launch = &to_run;
    failure = 0;
    const uint3 size = to_run.block;
    num_threads = size.x * size.y * size.z;
    if (fibers.size() < num_threads) fibers.resize(num_threads);
    while (stacks.size() < num_threads) {
        void* room = mmap(nullptr, STACK * STACKS_AT_ONCE, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (room == MAP_FAILED) abort();
        for (size_t i = 0; i < STACKS_AT_ONCE; i++) {
            stacks.push_back(static_cast<unsigned char*>(room) + i * STACK);
            mprotect(stacks.back(), PAGE, PROT_NONE);
        }
    }
    warps.resize((num_threads + LANES - 1) / LANES);
    for (unsigned w = 0; w < warps.size(); w++) {
        const unsigned lanes = std::min<unsigned>(LANES, num_threads - w * LANES);
        warps[w].exist = lanes == LANES ? ~0u : (1u << lanes) - 1;
        warps[w].left = 0;
        warps[w].num_meetings = 0;
    }
    for (unsigned i = 0; i < num_threads; i++) {
        Fiber& fiber = fibers[i];
        fiber.index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
        fiber.warp = static_cast<uint16_t>(i / LANES);
        fiber.lane = static_cast<uint16_t>(i % LANES);
        fiber.has_left = false;
        fiber.waits_at = nullptr;
        fiber.open_group = 0;
        fiber.copies.clear();
        fiber.context = fresh(top(stack(i), i), enter);
    }
    num_left = num_ready = num_arrived = turn = 0;
    barrier = nullptr;
    place_shared(to_run.shared_bytes);
    here.block = index;
    here.block_dim = to_run.block;
    here.grid_dim = to_run.grid;
}

// Dynamic shared memory ends at a page that must not be touched.
void Block::place_shared(size_t bytes) {
    const size_t room = (std::max<size_t>(bytes, 1) + PAGE - 1) / PAGE * PAGE;
    if (room > shared_room) {
        if (shared != nullptr) munmap(shared, shared_room + PAGE);
        void* to = mmap(nullptr, room + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (to == MAP_FAILED) abort();
        shared = static_cast<unsigned char*>(to);
        shared_room = room;
        mprotect(shared + room, PAGE, PROT_NONE);
    }
    const size_t padded = (bytes + 127) / 128 * 128;
    shared_bytes = bytes;
    here.dynamic_shared = shared + shared_room - padded;
    memset(here.dynamic_shared, POISON, padded);
    const Range fixed = launch->kernel->static_shared();
    memset(fixed.begin, POISON, static_cast<size_t>(fixed.end - fixed.begin));
}

void Block::shuffle_order(Random& random) {
    const auto shuffle = [&](uint16_t* order, unsigned count) {
        std::iota(order, order + count, 0);
        for (unsigned i = count; i > 1; i--) std::swap(order[i - 1], order[random.below(i)]);
    };
    shuffle(warp_order, static_cast<unsigned>(warps.size()));
    shuffle(lane_order, LANES);
}

int Block::run(const Launch& to_run, uint3 index) {
    static const long seed = setting("STAND_IN_SEED", 1);
    prepare(to_run, index);
    const uint64_t place = index.x + to_run.grid.x * (index.y + static_cast<uint64_t>(to_run.grid.y) * index.z);
    Random random(static_cast<uint64_t>(seed) * 0x2545f4914f6cdd1d + place);
    shuffle_order(random);
    running = true;
    if (sigsetjmp(ended, 0) == 0) begin();
    running = false;
    return failure;
}

void Block::begin() {
    current = nullptr;
    release_all();
    current = &fibers[ready[--num_ready]];
    here.thread = current->index;
    here.lane = current->lane;
    switch_context(scheduler, current->context);
}

void Block::enter() {
    Block& here_block = *block;
    here_block.launch->kernel->call(here_block.launch->arguments);
    // The block's members may have changed since: this is another moment of the same thread.
    Fiber& me = *here_block.current;
    me.has_left = true;
    here_block.num_left++;
    Warp& warp = here_block.warps[me.warp];
    warp.left |= 1u << me.lane;
    for (int i = 0; i < warp.num_meetings; i++) {
        if (warp.meetings[i].mask >> me.lane & 1) {
            fail(LAUNCH_FAILED, "leaves, while lanes of its warp wait for it");
        }
    }
    if (here_block.barrier != nullptr) fail(LAUNCH_FAILED, "leaves, while others wait for it at a barrier");
    if (here_block.num_left == here_block.num_threads) switch_context(me.context, here_block.scheduler);
    here_block.hand_over();
    abort();
}

// Goes on with another thread of the block, until somebody makes this one ready again.
void Block::hand_over() {
    if (num_ready == 0) {
        for (unsigned i = 0; i < num_threads; i++) {
            if (!fibers[i].has_left) current = &fibers[i];
        }
        stop(LAUNCH_FAILED, "waits for threads that wait elsewhere: a deadlock");
    }
    Fiber& from = *current;
    current = &fibers[ready[--num_ready]];
    here.thread = current->index;
    here.lane = current->lane;
    switch_context(from.context, current->context);
}

Meeting& Block::meeting(Warp& warp, unsigned mask, const Collective& collective) {
    for (int i = 0; i < warp.num_meetings; i++) {
        Meeting& open = warp.meetings[i];
        if ((open.mask & mask) == 0) continue;
        if (open.mask != mask) stop(LAUNCH_FAILED, "names other lanes than those that wait for it");
        if (open.collective != &collective) stop(LAUNCH_FAILED, "comes, while lanes of its warp wait at another collective");
        return open;
    }
    Meeting& open = warp.meetings[warp.num_meetings++];
    open = {mask, 0, &collective};
    return open;
}

void Block::meet(unsigned mask, const Collective& collective, void* arguments) {
    Fiber& me = *current;
    Warp& warp = warps[me.warp];
    me.waits_at = collective.name;
    if ((mask >> me.lane & 1) == 0) stop(LAUNCH_FAILED, "is not in its own mask");
    if ((mask & warp.left) != 0) stop(LAUNCH_FAILED, "names lanes that have left");
    mask &= warp.exist;
    Meeting& open = meeting(warp, mask, collective);
    warp.arguments[me.lane] = arguments;
    open.arrived |= 1u << me.lane;
    if (open.arrived != mask) {
        hand_over();
        return;
    }
    open = warp.meetings[--warp.num_meetings];
    collective.complete(warp.arguments, mask);
    me.waits_at = nullptr;
    release(me.warp, mask & ~(1u << me.lane));
}

int Block::meet_block(const char* name, bool predicate) {
    current->waits_at = name;
    if (num_left != 0) stop(LAUNCH_FAILED, "comes to a barrier that other threads have left without");
    if (barrier != nullptr && barrier != name) stop(LAUNCH_FAILED, "comes to another barrier than others");
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
    current->waits_at = nullptr;
    release_all();
    return barrier_result;
}

void Block::release(unsigned warp, unsigned mask) {
    const unsigned first = turn++;
    for (unsigned i = 0; i < LANES; i++) {
        const unsigned lane = lane_order[(first + i) % LANES];
        if (mask >> lane & 1) push(warp * LANES + lane);
    }
}

// All but the current thread, warp by warp.
void Block::release_all() {
    const unsigned num_warps = static_cast<unsigned>(warps.size());
    const unsigned first = turn;
    for (unsigned i = 0; i < num_warps; i++) {
        const unsigned w = warp_order[(first + i) % num_warps];
        const bool is_mine = current != nullptr && current->warp == w;
        release(w, is_mine ? warps[w].exist & ~(1u << current->lane) : warps[w].exist);
    }
}

bool Block::is_shared(const void* address, size_t bytes) const {
    const auto* at = static_cast<const unsigned char*>(address);
    const Range fixed = launch->kernel->static_shared();
    const bool in_dynamic = at >= here.dynamic_shared && at + bytes <= here.dynamic_shared + shared_bytes;
    return in_dynamic || (at >= fixed.begin && at + bytes <= fixed.end);
}

bool Block::is_past_stack(const void* address) const {
    const auto* at = static_cast<const unsigned char*>(address);
    const unsigned char* bottom = stacks[static_cast<size_t>(current - fibers.data())];
    return at >= bottom && at < bottom + PAGE;
}

void Block::stop(int code, const char* message) {
    failure = code;
    const uint3 b = here.block, t = current->index;
    fprintf(stderr, "stand-in: kernel %s, block (%u, %u, %u), thread (%u, %u, %u)%s%s %s\n", launch->kernel->name, b.x,
            b.y, b.z, t.x, t.y, t.z, current->waits_at ? " at " : "", current->waits_at ? current->waits_at : "",
            message);
    siglongjmp(ended, 1);
}

std::map<std::string, Kernel>& kernels() {
    static auto& all = *new std::map<std::string, Kernel>;
    return all;
}

struct sigaction before[NSIG];

void on_fault(int signal, siginfo_t* info, void*) {
    if (block == nullptr || !block->is_running()) {
        // Not ours: the fault happens again, under whoever was to handle it.
        sigaction(signal, &before[signal], nullptr);
        return;
    }
    if (signal == SIGFPE) block->stop(LAUNCH_FAILED, "divides by zero");
    if (signal == SIGILL) block->stop(MISALIGNED_ADDRESS, "uses a misaligned address, or an index out of its array");
    // The processor names no address where it refuses the access for its alignment.
    if (info->si_code == SI_KERNEL) block->stop(MISALIGNED_ADDRESS, "uses a misaligned address");
    if (block->is_past_stack(info->si_addr)) block->stop(LAUNCH_FAILED, "has used up its stack");
    char message[96];
    snprintf(message, sizeof message, "touches %p, which is not its memory", info->si_addr);
    block->stop(ILLEGAL_ADDRESS, message);
}

void install_handlers() {
    struct sigaction action {};
    action.sa_sigaction = on_fault;
    // The handler jumps away, so the signal must not stay blocked.
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) sigaction(signal, &action, &before[signal]);
}

} // namespace

long setting(const char* name, long otherwise) {
    const char* text = getenv(name);
    return text == nullptr || *text == '\0' ? otherwise : strtol(text, nullptr, 0);
}

Registration::Registration(const Kernel& kernel) { kernels().emplace(kernel.name, kernel); }

const Kernel* find_kernel(const std::string& name) {
    const auto found = kernels().find(name);
    return found == kernels().end() ? nullptr : &found->second;
}

void catch_faults() {
    static const bool installed = (install_handlers(), true);
    static_cast<void>(installed);
    thread_local bool has_stack = false;
    if (has_stack) return;
    has_stack = true;
    stack_t old;
    sigaltstack(nullptr, &old);
    if ((old.ss_flags & SS_DISABLE) == 0) return;
    stack_t own{};
    own.ss_size = STACK;
    own.ss_sp = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    sigaltstack(&own, nullptr);
}

int run_block(const Launch& launch, uint3 index) {
    if (block == nullptr) {
        catch_faults();
        own_block = std::make_unique<Block>();
        block = own_block.get();
    }
    return block->run(launch, index);
}

void meet(unsigned mask, const Collective& collective, void* arguments) { block->meet(mask, collective, arguments); }
int meet_block(const char* name, bool predicate) { return block->meet_block(name, predicate); }
unsigned active_lanes() { return block->active_lanes(); }
bool is_shared(const void* address, size_t bytes) { return block->is_shared(address, bytes); }
void fail(int code, const char* message) { block->stop(code, message); }

void copy_begin(void* to, const void* from, bool valid) {
    if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % 16 != 0) {
        fail(MISALIGNED_ADDRESS, "cp_async_16 of a misaligned address");
    }
    if (!is_shared(to, 16)) fail(INVALID_ADDRESS_SPACE, "cp_async_16 to elsewhere than shared memory");
    memset(to, POISON, 16);
    Fiber& me = block->fiber();
    me.copies.push_back({to, from, valid, me.open_group});
}

void copy_commit() { block->fiber().open_group++; }

void copy_wait(int pending) {
    Fiber& me = block->fiber();
    const int end = me.open_group - pending;
    size_t kept = 0;
    for (const Copy& copy : me.copies) {
        if (copy.group >= end) {
            me.copies[kept++] = copy;
        } else if (copy.valid) {
            memcpy(copy.to, copy.from, 16);
        } else {
            memset(copy.to, 0, 16);
        }
    }
    me.copies.resize(kept);
}

} // namespace stand_in
