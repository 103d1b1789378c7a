"""The machine: what it is, and how much of its time others took during a measurement."""

import os
import pathlib
import platform
import subprocess
import time

# Above this share, a figure says more about the neighbours than about the servers.
MAX_DISTURBANCE = 0.03
TICKS = os.sysconf("SC_CLK_TCK")


def describe():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    fields = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    model = fields.get("model name", "unknown processor")
    # Virtual machines hide the rest of the name.
    if "cpu family" in fields:
        model += f" (family {fields['cpu family']}, model {fields.get('model')})"
    return f"{model}, {os.cpu_count()} CPUs, {platform.system()} {platform.machine()}"


def commit():
    """The commit; marked where files other than the results differ from it."""
    def git(*arguments):
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)

    described = git("describe", "--always").stdout.strip() or "unknown"
    changed = git("diff", "--quiet", "HEAD", "--", ".", ":!benches/RESULTS.md").returncode
    return described + ("-dirty" if changed else "")


def parents():
    """Each process's parent."""
    found = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := stat_fields(entry.name)):
            found[int(entry.name)] = int(fields[1])
    return found


def stat_fields(pid):
    """The fields of a process's stat after its name; none if it has ended."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return stat.rsplit(")", 1)[1].split()


def family(pid):
    """A process and its descendants."""
    parent_of = parents()
    found = {pid}
    while more := {child for child, parent in parent_of.items() if parent in found} - found:
        found |= more
    return found


def resident_mib(pid):
    """Resident memory of a process and its descendants; what they share counts for each."""
    total = 0
    for member in family(pid):
        try:
            status = pathlib.Path(f"/proc/{member}/status").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in status.splitlines()
                     if line.startswith("VmRSS:"))
    return total / 1024


class Disturbance:
    """The share of the machine's time that went elsewhere: to other virtual machines, or to
    processes that are neither this one nor its descendants."""

    def __enter__(self):
        self.begin = self.sample()
        return self

    def __exit__(self, *_):
        busy, stolen, own, at = (b - a for a, b in zip(self.begin, self.sample()))
        # Ticks are coarse, hence no less than none.
        others = max(0.0, busy - own)
        self.share = (stolen + others) / max(1.0, at * TICKS * os.cpu_count())

    @property
    def is_large(self):
        return self.share > MAX_DISTURBANCE

    def sample(self):
        user, nice, system, _, _, irq, softirq, stolen = (
            int(field) for field in open("/proc/stat").readline().split()[1:9])
        own = 0
        for pid in family(os.getpid()):
            if fields := stat_fields(pid):
                # Its own user and system time, and that of its children that have ended.
                own += sum(int(field) for field in fields[11:15])
        return user + nice + system + irq + softirq, stolen, own, time.monotonic()


def wait_until_quiet(seconds):
    """Waits for others to stop, but no longer than that: llama.cpp's threads wait for each other
    in a loop, and become several times slower when one of them loses its processor."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with Disturbance() as disturbance:
            time.sleep(0.5)
        if not disturbance.is_large:
            return
