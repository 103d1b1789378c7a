// Runs the stand-in's own tests, or those whose names are given.
#include <cstring>

#include "check.h"

int num_failures = 0;

std::vector<Test>& tests() {
    static std::vector<Test> all;
    return all;
}

CUfunction function(const char* name) {
    static CUmodule module = [] {
        CUmodule loaded;
        OK(cuModuleLoadData(&loaded, ""));
        return loaded;
    }();
    CUfunction found = nullptr;
    OK(cuModuleGetFunction(&found, module, name));
    return found;
}

static bool is_wanted(const char* name, int count, char** names) {
    for (int i = 1; i < count; i++) {
        if (strcmp(name, names[i]) == 0) return true;
    }
    return count < 2;
}

int main(int count, char** names) {
    OK(cuInit(0));
    CUcontext context;
    OK(cuDevicePrimaryCtxRetain(&context, 0));
    OK(cuCtxSetCurrent(context));
    for (const Test& test : tests()) {
        if (!is_wanted(test.name, count, names)) continue;
        const int before = num_failures;
        test.run();
        printf("%s %s\n", num_failures == before ? "ok    " : "FAILED", test.name);
    }
    return num_failures == 0 ? 0 : 1;
}
