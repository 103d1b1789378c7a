// Faults inside a kernel end its launch, as they do on a device, rather than the process.
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>

#include "block.h"

namespace stand_in {

namespace {

// Rust gives its threads 8 KiB, of which a processor's registers may take half.
constexpr size_t SIGNAL_STACK = 64 * 1024;

struct sigaction before[NSIG];

void stop(Block& block, int signal, const siginfo_t& fault) {
    if (signal == SIGFPE) block.stop(LAUNCH_FAILED, "divides by zero");
    // Kernels are compiled with checks that trap.
    if (signal == SIGILL) block.stop(MISALIGNED_ADDRESS, "uses a misaligned address, or an index past its array");
    // The processor names no address that is none to it.
    if (fault.si_code == SI_KERNEL) block.stop(ILLEGAL_ADDRESS, "touches what no address can be");
    if (block.is_below_stack(fault.si_addr)) block.stop(LAUNCH_FAILED, "has used up its stack");
    char message[96];
    snprintf(message, sizeof message, "touches %p, where it has no memory", fault.si_addr);
    block.stop(ILLEGAL_ADDRESS, message);
}

void on_fault(int signal, siginfo_t* fault, void*) {
    Block* block = Block::running();
    if (block != nullptr) stop(*block, signal, *fault);
    // Not ours: it happens again, under whoever was to handle it.
    sigaction(signal, &before[signal], nullptr);
}

bool install() {
    struct sigaction action {};
    action.sa_sigaction = on_fault;
    // The handler jumps away, so the signal must not stay blocked.
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) sigaction(signal, &action, &before[signal]);
    return true;
}

} // namespace

void catch_faults(void*& signal_stack) {
    static const bool installed = install();
    static_cast<void>(installed);
    stack_t own;
    sigaltstack(nullptr, &own);
    if ((own.ss_flags & SS_DISABLE) == 0 && own.ss_size >= SIGNAL_STACK) return;
    if (signal_stack == nullptr) {
        signal_stack = mmap(nullptr, SIGNAL_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    }
    own = {};
    own.ss_size = SIGNAL_STACK;
    own.ss_sp = signal_stack;
    if (signal_stack != MAP_FAILED) sigaltstack(&own, nullptr);
}

void leave_faults(void* signal_stack) {
    stack_t own;
    sigaltstack(nullptr, &own);
    if (own.ss_sp != signal_stack) return;
    own = {};
    own.ss_flags = SS_DISABLE;
    sigaltstack(&own, nullptr);
}

} // namespace stand_in
