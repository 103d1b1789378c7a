// The kernels that were linked in, and copies to shared memory that are performed later.
#include <stdlib.h>
#include <string.h>

#include <map>

#include "block.h"

namespace stand_in {

namespace {

std::map<std::string, Kernel>& kernels() {
    static auto& all = *new std::map<std::string, Kernel>;
    return all;
}

void perform(const Copy& copy) {
    if (copy.valid) {
        memcpy(copy.to, copy.from, 16);
    } else {
        memset(copy.to, 0, 16);
    }
}

} // namespace

Registration::Registration(const Kernel& kernel) { kernels().emplace(kernel.name, kernel); }

const Kernel* find_kernel(const std::string& name) {
    const auto found = kernels().find(name);
    return found == kernels().end() ? nullptr : &found->second;
}

long setting(const char* name, long otherwise) {
    const char* text = getenv(name);
    return text == nullptr || *text == '\0' ? otherwise : strtol(text, nullptr, 0);
}

void copy_begin(void* to, const void* from, bool valid) {
    if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % 16 != 0) {
        fail(MISALIGNED_ADDRESS, "copies (cp_async_16) at a misaligned address");
    }
    if (!is_shared(to, 16)) fail(INVALID_ADDRESS_SPACE, "copies (cp_async_16) to elsewhere than shared memory");
    memset(to, POISON, 16);
    Copies& own = Block::own().copies();
    own.pending.push_back({to, from, valid, own.open_group});
}

void wait_for_those_before() { Block::own().wait_for_those_before(); }

void let_dependents_begin() { Block::own().let_dependents_begin(); }

void copy_commit() { Block::own().copies().open_group++; }

void copy_wait(int pending) {
    Copies& own = Block::own().copies();
    const int end = own.open_group - pending;
    std::erase_if(own.pending, [end](const Copy& copy) {
        if (copy.group >= end) return false;
        perform(copy);
        return true;
    });
}

} // namespace stand_in
