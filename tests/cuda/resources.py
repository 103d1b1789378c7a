"""What kernels take of a GPU, as the compiler says, against the table of what they may.

Reads the compiler's reports that the build left beside the kernels: registers, spills and stacks, per kernel
and chip. A kernel that is not in the table may use no stack and spill nothing. Prints the largest, and fails
where a limit is passed or a report is missing.
"""

import collections
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parents[2]

# Kernels that may have a stack or spill, as patterns of name and chip, with the bytes.
STACKS = {
    # Heads of 256 fill the registers whichever way they are cut; few models have them.
    r"attention_decode_256_\w+ sm_(80|90a)": 24,
    r"attention_decode_256_\w+ sm_(100|120)": 480,
    # Three loads of what doesn't change, in a loop of hundreds of products.
    r"attention_prefill_128_(bf16_bf16|f16_f16) \w+": 60,
    # Two registers at most, in a loop of a hundred instructions.
    r"(moe_)?gemv_w[48]_\w+ sm_(80|100|120)": 32,
    # One register, reloaded once an iteration.
    r"moe_gemv_w4_\w+ sm_90a": 8,
    # Without products of 8-bit floats no such matrix is loaded.
    r"fp8_gemv_\w+ sm_80": 48,
}
ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(sm_\w+)'")
STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")

Use = collections.namedtuple("Use", "kernel chip stack spills registers")


def reports():
    """The reports of the newest build."""
    builds = ROOT.glob("target/*/build/sconce-kernels-*/out/*.ptxas")
    newest = collections.defaultdict(list)
    for path in builds:
        newest[path.parent].append(path)
    if not newest:
        sys.exit("no reports: build with --features cuda and nvcc first")
    return newest[max(newest, key=lambda folder: max(p.stat().st_mtime for p in newest[folder]))]


def uses(path):
    kernel = chip = None
    stack = spills = 0
    for line in path.read_text().splitlines():
        if entry := ENTRY.search(line):
            kernel, chip = entry.groups()
        elif numbers := STACK.search(line):
            stack, stores, loads = map(int, numbers.groups())
            spills = stores + loads
        elif (used := USED.search(line)) and kernel:
            yield Use(kernel, chip, stack, spills, int(used.group(1)))
            kernel = None


def allowed(use):
    name = f"{use.kernel} {use.chip}"
    return next((most for pattern, most in STACKS.items() if re.fullmatch(pattern, name)), 0)


def main():
    all_uses = [use for path in reports() for use in uses(path)]
    if len(all_uses) < 50:
        sys.exit(f"only {len(all_uses)} kernels were reported")
    wrong = [use for use in all_uses if max(use.stack, use.spills) > allowed(use)]
    for use in sorted(all_uses, key=lambda use: -use.registers)[:5]:
        print(f"{use.registers:4} registers  {use.kernel} ({use.chip})")
    for use in wrong:
        print(f"{use.kernel} ({use.chip}): {use.stack} bytes of stack, {use.spills} of spills, "
            f"at most {allowed(use)}")
    chips = sorted({use.chip for use in all_uses})
    # What is allowed and not used any more would hide what comes later.
    for pattern in STACKS:
        if not any(re.fullmatch(pattern, f"{use.kernel} {use.chip}") for use in all_uses):
            wrong.append(pattern)
            print(f"no kernel is named {pattern}")
    print(f"{len(all_uses)} kernels for {', '.join(chips)}: {len(wrong)} beyond their limits")
    sys.exit(1 if wrong else 0)


main()
