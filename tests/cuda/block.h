// Runs a block: each of its threads is a fiber, all on one OS thread. Where a thread must wait for others it
// hands over to the next that can run; the one that comes last to a meeting point does the meeting's work and
// makes the others ready again. The order among those that can run comes from a seed.
#pragma once

#include <setjmp.h>

#include <vector>

#include "runtime.h"
#include "switch.h"

namespace stand_in {

constexpr unsigned MAX_THREADS = 1024, LANES = 32;
// Shared memory that nobody wrote reads as this: NaN in every float type.
constexpr int POISON = 0xff;

// What of `Here` belongs to one thread.
struct Identity {
    uint3 index;
    unsigned lane;
};

// One of the block's threads; as small as can be, since every switch touches two.
struct Thread {
    Identity identity;
    Context context;
    // For messages.
    const char* waits_at;
};

struct Copy {
    void* to;
    const void* from;
    bool valid;
    int group;
};

// A thread's copies that no wait has covered yet.
struct Copies {
    std::vector<Copy> pending;
    int open_group = 0;
};

// Lanes that wait for the others of their mask.
struct Meeting {
    unsigned mask, arrived;
    const Collective* collective;
};

struct Warp {
    unsigned exist, left;
    unsigned num_meetings;
    Meeting meetings[LANES];
    void* arguments[LANES];
};

class Stacks {
public:
    void free_all() { num_used = 0, unused.clear(); }
    unsigned take();
    void give_back(unsigned stack) { unused.push_back(stack); }
    void* top(unsigned stack) const;
    size_t room() const;
    // Whether it is the page below a stack that must not be touched.
    bool is_below(const void* address) const;

private:
    std::vector<unsigned char*> all;
    std::vector<unsigned> unused;
    unsigned num_used = 0;
};

// Dynamic shared memory; it ends at a page that must not be touched.
class Shared {
public:
    unsigned char* place(size_t bytes);
    bool holds(const void* address, size_t bytes) const;

private:
    unsigned char *mapped = nullptr, *begin = nullptr;
    size_t room = 0, size = 0;
};

// In which order threads are made ready.
class Order {
public:
    void shuffle(uint64_t seed, unsigned num_warps);
    // Begins another round; its warps are then `warp(0)` and so on.
    void next_round() { first_warp = turn; }
    unsigned warp(unsigned i) const { return warps[(first_warp + i) % num_warps]; }
    // Writes the threads of a warp's lanes, returns how many.
    unsigned lanes(unsigned warp, unsigned mask, uint16_t* to);

private:
    uint16_t warps[LANES];
    // Twice the same, so that any turn begins a whole order.
    uint16_t order[2 * LANES];
    unsigned num_warps = 0, turn = 0, first_warp = 0;
};

class Block {
public:
    // The OS thread's own, until it ends; another thread has it then, since a program may start very many.
    static Block& own();
    static void give_back_own();
    // Null while no kernel runs on this OS thread.
    static Block* running();

    int run(const Launch& launch, uint3 index);
    void meet(unsigned mask, const Collective& collective, void* arguments);
    int meet_block(const char* name, bool predicate);
    unsigned active_lanes() const;
    bool is_shared(const void* address, size_t bytes) const;
    bool is_below_stack(const void* address) const { return stacks.is_below(address); }
    Copies& copies();
    void wait_for_those_before();
    void let_dependents_begin();
    [[noreturn]] void stop(int code, const char* message);

private:
    void prepare(const Launch& launch, uint3 index);
    void name_threads(uint3 size);
    Meeting& meeting(Warp& warp, unsigned mask, const Collective& collective);
    void close(Warp& warp, Meeting& open) { open = warp.meetings[--warp.num_meetings]; }
    void release_all();
    void release(unsigned warp, unsigned mask) { num_ready += order.lanes(warp, mask, ready + num_ready); }
    unsigned current() const { return static_cast<unsigned>(thread - threads.data()); }
    unsigned next();
    void become(unsigned number);
    void hand_over();
    void leave();
    static void enter();
    void begin();

    const Launch* launch = nullptr;
    bool is_running = false;
    int failure = 0;
    sigjmp_buf ended;
    Context scheduler{};
    Thread* thread = nullptr;
    unsigned num_threads = 0, num_left = 0;
    uint3 size = {0, 0, 0};
    std::vector<Thread> threads;
    // On which stack each runs, once it has begun.
    std::vector<uint16_t> stack_of;
    std::vector<Copies> copies_of;
    // Which threads have waited for the kernels before.
    std::vector<bool> has_waited;
    bool has_copied = false;
    std::vector<Warp> warps;
    Stacks stacks;
    void* signal_stack = nullptr;
    Shared shared;
    Order order;
    // Threads that can run, the next one last.
    uint16_t ready[MAX_THREADS + LANES];
    unsigned num_ready = 0;
    const char* barrier = nullptr;
    unsigned num_arrived = 0;
    int num_true = 0, barrier_result = 0;
};

} // namespace stand_in
