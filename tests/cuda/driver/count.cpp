// Counts what is called and launched, and fails what it is told to: STAND_IN_FAIL="name:nth:code[,...]",
// where name is a driver function's or "kernel=" and a kernel's.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "state.h"

namespace stand_in {

namespace {

struct Failure {
    std::string name;
    unsigned long nth;
    int code;
};

struct Counts {
    std::map<std::string, unsigned long> calls;
    // Since the start, whatever was reset meanwhile.
    std::map<std::string, unsigned long> ever;
    std::vector<Failure> failures;
};

std::vector<Failure> parse(const char* text) {
    std::vector<Failure> failures;
    for (const char* at = text; at != nullptr && *at != '\0';) {
        char name[128];
        unsigned long nth;
        int code, used = 0;
        if (sscanf(at, "%127[^:,]:%lu:%d%n", name, &nth, &code, &used) != 3) {
            fprintf(stderr, "stand-in: cannot read \"%s\" of STAND_IN_FAIL\n", at);
            abort();
        }
        const bool is_kernel = strncmp(name, "kernel=", 7) == 0;
        failures.push_back({is_kernel ? std::string("kernel:") + (name + 7) : name, nth, code});
        at += used;
        if (*at == ',') at++;
    }
    return failures;
}

void report();

Counts& counts() {
    static Counts& all = *[] {
        auto* made = new Counts;
        made->failures = parse(getenv("STAND_IN_FAIL"));
        if (getenv("STAND_IN_REPORT") != nullptr) atexit(report);
        return made;
    }();
    return all;
}

void report() {
    FILE* file = fopen(getenv("STAND_IN_REPORT"), "a");
    if (file == nullptr) return;
    const std::lock_guard hold(state().lock);
    for (const auto& [name, count] : counts().calls) fprintf(file, "%s %lu\n", name.c_str(), count);
    fclose(file);
}

// Functions are known by their plain names, whichever version of them is called.
std::string plain(const char* name) {
    const char* version = strstr(name, "_v");
    return version != nullptr && strspn(version + 2, "0123456789") == strlen(version + 2) && version[2] != '\0'
               ? std::string(name, version)
               : std::string(name);
}

// Returns the error that this call, one more of its name, is to end with.
int count(const std::string& name) {
    Counts& all = counts();
    all.calls[name]++;
    const unsigned long nth = ++all.ever[name];
    for (const Failure& failure : all.failures) {
        if (failure.name == name && failure.nth == nth) return failure.code;
    }
    return 0;
}

} // namespace

void enter(const char* name, Needs needs) {
    const int told = count(plain(name));
    if (told != 0) throw static_cast<CUresult>(told);
    if (needs == Needs::NOTHING) return;
    refuse_if(!state().initialised, CUDA_ERROR_NOT_INITIALIZED);
    if (needs == Needs::INIT) return;
    refuse_if(state().broken != CUDA_SUCCESS, state().broken);
    current_context();
}

int count_launch(const std::string& kernel) { return count("kernel:" + kernel); }

void count_attribute(int launch_attribute) { count("attribute:" + std::to_string(launch_attribute)); }

void count_graph(size_t num_nodes) { counts().calls["graph_nodes"] = num_nodes; }

} // namespace stand_in

#define EXPORT extern "C" __attribute__((visibility("default")))

// How often a driver function was called, or "kernel:" and a name launched, since the start or the last reset.
EXPORT unsigned long long stand_in_count(const char* name) {
    const std::lock_guard hold(stand_in::state().lock);
    const auto& calls = stand_in::counts().calls;
    const auto found = calls.find(stand_in::plain(name));
    return found == calls.end() ? 0 : found->second;
}

EXPORT void stand_in_reset() {
    const std::lock_guard hold(stand_in::state().lock);
    stand_in::counts().calls.clear();
}

// As STAND_IN_FAIL, counted from now on.
EXPORT void stand_in_fail(const char* plan) {
    const std::lock_guard hold(stand_in::state().lock);
    stand_in::counts().failures = stand_in::parse(plan);
    stand_in::counts().ever.clear();
}

// Makes a context whose kernel has failed usable again, which no device can.
EXPORT void stand_in_revive() {
    const std::lock_guard hold(stand_in::state().lock);
    stand_in::state().broken = CUDA_SUCCESS;
}
