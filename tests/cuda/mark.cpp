// An end of one kernel file's static shared memory: the linker puts thread-local variables in the order of
// the objects, so two such marks around a kernel file's object enclose its `__shared__` variables.
extern "C" {
__thread __attribute__((aligned(64))) unsigned char STAND_IN_MARK[64];
}
