// Shares a grid's blocks out over the cores.
#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "runtime.h"

namespace stand_in {

namespace {

// OS threads that wait for work. Never destroyed: a process may end while they wait.
class Pool {
public:
    static Pool& instance() {
        static Pool& pool = *new Pool;
        return pool;
    }

    void run(uint64_t count, const std::function<void(uint64_t)>& work) {
        std::unique_lock hold(mutex);
        next = 0;
        end = count;
        current = &work;
        num_busy = num_helpers;
        round++;
        begun.notify_all();
        hold.unlock();
        take(work);
        hold.lock();
        done.wait(hold, [this] { return num_busy == 0; });
        current = nullptr;
    }

    bool has_helpers() const { return num_helpers != 0; }

private:
    Pool() {
        cpu_set_t cores;
        const bool known = sched_getaffinity(0, sizeof cores, &cores) == 0;
        // Each thread maps up to a thousand stacks, and a process's mappings are counted.
        const long most = std::min<long>(known ? CPU_COUNT(&cores) : 1, 16);
        num_helpers = std::max<long>(setting("STAND_IN_THREADS", most), 1) - 1;
        for (long i = 0; i < num_helpers; i++) std::thread([this] { help(); }).detach();
    }

    void help() {
        uint64_t seen = 0;
        std::unique_lock hold(mutex);
        for (;;) {
            begun.wait(hold, [&] { return round != seen; });
            seen = round;
            const auto& work = *current;
            hold.unlock();
            take(work);
            hold.lock();
            if (--num_busy == 0) done.notify_one();
        }
    }

    void take(const std::function<void(uint64_t)>& work) {
        for (uint64_t i; (i = next++) < end;) work(i);
    }

    std::mutex mutex;
    std::condition_variable begun, done;
    std::atomic<uint64_t> next = 0;
    uint64_t end = 0, round = 0;
    const std::function<void(uint64_t)>* current = nullptr;
    long num_helpers = 0, num_busy = 0;
};

std::mutex one_at_a_time;

} // namespace

void share_out(uint64_t count, bool alone, const std::function<void(uint64_t)>& work) {
    const std::lock_guard hold(one_at_a_time);
    if (alone || count < 2 || !Pool::instance().has_helpers()) {
        for (uint64_t i = 0; i < count; i++) work(i);
    } else {
        Pool::instance().run(count, work);
    }
}

int run(const Launch& launch) {
    const uint64_t x = launch.grid.x, y = launch.grid.y, count = x * y * launch.grid.z;
    const uint64_t threads = static_cast<uint64_t>(launch.block.x) * launch.block.y * launch.block.z;
    std::atomic<int> failure = 0;
    const auto one = [&](uint64_t i) {
        if (failure != 0) return;
        const uint3 index = {static_cast<unsigned>(i % x), static_cast<unsigned>(i / x % y),
                             static_cast<unsigned>(i / (x * y))};
        const int code = run_block(launch, index);
        int none = 0;
        if (code != 0) failure.compare_exchange_strong(none, code);
    };
    // Waking another core costs more than a few hundred threads' work.
    constexpr uint64_t FEW_THREADS = 1024;
    share_out(count, count * threads < FEW_THREADS, one);
    return failure;
}

} // namespace stand_in
