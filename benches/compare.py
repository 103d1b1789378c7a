"""Sconce beside llama.cpp: same machine, same GGUF file, same threads, same prompts.

Against two peers: llama-server with the same file, and with the format that is its fastest. In one
run, and in turn: how long a start takes and how much memory it holds; what clients get over HTTP;
and, unless --skip-engines, what the engines do by themselves, by Sconce's forward bench and
llama.cpp's own tools. Prints tables in Markdown: medians, the ratio of medians, and the least and
greatest ratio of a round; rounds that others disturbed are left out where there are better ones.
`benches/compare.sh` builds all that is needed and calls this, with all of these options. A round
takes about 2 minutes with SmolLM2-135M on two cores, the heavy workloads 5 more, and a round of the
engines 2 more; larger models take longer in proportion.
"""

import argparse
import asyncio
import contextlib
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import threading
import time

from comparison import engines, gguf, machine, report, roofline
from comparison.machine import Disturbance
from comparison.report import Row
from comparison.servers import LlamaServer, Sconce
from comparison.workloads import WORKLOADS, measure

HERE = pathlib.Path(__file__).parent
SHAPES = ["qwen2.5-0.5b", "llama-3.2-1b"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--sconce", required=True, help="the sconce binary, built for release")
    add("--llama", required=True, metavar="DIRECTORY", help="where llama.cpp's binaries are")
    add("--forward", metavar="BINARY", help="Sconce's forward bench; without it, no engines")
    add("--roofline", metavar="BINARY", help="the probe; without it, no bounds")
    add("--model", required=True, metavar="FILE", help="a GGUF file")
    add("--model-shape", choices=SHAPES,
        help="instead of that model, random weights of this one's shape, with its tokenizer")
    add("--quant", choices=["q4_k_m", "q8_0"], default="q4_k_m", help="of those weights")
    add("--python", default=sys.executable, help="a Python with numpy and gguf, to make them")
    add("--cache", metavar="DIRECTORY", default="target/peer/models",
        help="where files that are made stay")
    add("--threads", type=int, default=os.cpu_count())
    add("--rounds", type=int, default=3, help="default: 3")
    add("--heavy-rounds", type=int, default=1,
        help="rounds with the workloads that take minutes; default: 1")
    add("--starts", type=int, default=3, help="starts of each server; default: 3")
    add("--patience", type=int, default=20, metavar="SECONDS",
        help="how long to wait before each figure for other processes to stop; default: 20")
    add("--attempts", type=int, default=2, metavar="COUNT",
        help="how often a light figure is measured at most, if others disturb it; default: 2")
    add("--workloads", metavar="NAMES", help="with commas between; default: all of "
        + ", ".join(workload.name for workload in WORKLOADS))
    add("--skip-engines", action="store_true", help="measure servers only")
    add("--write", metavar="FILE", help="put the tables into this file, between its markers")
    options = parser.parse_args()
    known = [workload.name for workload in WORKLOADS]
    options.names = options.workloads.split(",") if options.workloads else known
    if unknown := set(options.names) - set(known):
        parser.error(f"no workloads: {', '.join(sorted(unknown))}")
    if options.skip_engines:
        options.forward = None
    return options


def log(*words):
    print(*words, file=sys.stderr, flush=True)


def model_files(options):
    """The file that all take, and the peer's fastest; the same where 8 bits are compared, since
    half as many would be another model."""
    cache = pathlib.Path(options.cache)
    quantize = f"{options.llama}/llama-quantize"
    if options.model_shape:
        best = options.quant if options.quant == "q8_0" else "q4_0"
        made = subprocess.run(
            [options.python, HERE / "random_model.py", options.model_shape, options.quant, best,
             "--directory", cache, "--tokenizer", options.model, "--llama-quantize", quantize],
            check=True, stdout=subprocess.PIPE, text=True)
        files = made.stdout.split()
        return files[0], files[-1]
    cache.mkdir(parents=True, exist_ok=True)
    best = cache / f"{pathlib.Path(options.model).stem}-q4_0.gguf"
    if not best.exists():
        partial = best.with_suffix(".partial")
        subprocess.run([quantize, "--allow-requantize", options.model, partial, "q4_0"], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        partial.rename(best)
    return options.model, str(best)


def contenders(options, file, best):
    server, threads = f"{options.llama}/llama-server", options.threads
    found = [Sconce("sconce", options.sconce, file, threads),
             LlamaServer("llama.cpp, same file", server, file, threads)]
    if best != file:
        found.append(LlamaServer("llama.cpp, Q4_0", server, best, threads))
    return found


def in_turn(items, turn):
    """Whoever is first in one round is last in the next."""
    return items if turn % 2 == 0 else items[::-1]


class Probes:
    """What the machine can do, asked right beside Sconce's figures: it changes by the minute."""

    def __init__(self, options, model):
        self.options, self.model, self.taken = options, model, []

    def probe(self):
        if self.options.roofline:
            self.taken.append(roofline.probe(self.options.roofline, self.options.threads))

    def around(self, contender, figure):
        """The figure, and the better of two probes if the contender is Sconce."""
        if not (self.options.roofline and isinstance(contender, Sconce)):
            return figure(), None
        self.probe()
        value = figure()
        self.probe()
        return value, best_of(self.taken[-2:])

    def bound(self, workload, probed):
        return roofline.bound(workload, self.model, probed) if probed else None


def measured(options, row, contenders, turn, figure):
    """Adds a round: each contender's figure, in turn, and what the machine can do where the figure
    comes with that. `figure` gets a number of its own for each attempt, so that no prompt is sent
    twice."""
    values, disturbances, bound = {}, [], None
    for contender in in_turn(contenders, turn):
        for attempt in range(row.attempts or options.attempts):
            machine.wait_until_quiet(options.patience)
            with Disturbance() as disturbance:
                value, bound_now = figure(contender, turn + 1000 * attempt)
            log(f"round {turn + 1}  {row.title:62} {contender.name:22}"
                f"{report.number(value):>9}  others {disturbance.share:4.0%}")
            if not disturbance.is_large:
                break
        values[contender.name] = value
        disturbances.append(disturbance)
        bound = bound_now or bound
    row.add(values, disturbances, bound)


class PeakMemory:
    """The greatest resident memory of a server while it is loaded."""

    def __init__(self, server):
        self.server, self.mib = server, 0.0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def watch(self):
        while not self.ended.wait(0.1):
            self.mib = max(self.mib, self.server.resident_mib())

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()


def measure_starts(options, contenders):
    """Fresh servers, one at a time: until the first token, and memory before and under load."""
    first = Row("from exec to the first token, seconds", smaller_is_better=True)
    ready = Row("resident memory when ready, MiB", smaller_is_better=True)
    loaded = Row("resident memory at 32 streams, MiB", smaller_is_better=True)
    load = next(workload for workload in WORKLOADS if workload.name == "decode-32")
    for turn in range(options.starts):
        memory = {"ready": {}, "loaded": {}}

        def start(contender, number):
            server = contender.start()
            try:
                memory["ready"][contender.name] = server.resident_mib()
                if turn == 0:
                    with PeakMemory(server) as peak:
                        asyncio.run(measure(load, server, number))
                    memory["loaded"][contender.name] = peak.mib
            finally:
                server.stop()
            return server.seconds_to_token, None

        measured(options, first, contenders, turn, start)
        ready.add(memory["ready"], [])
        loaded.add(memory["loaded"], [])
    return [first, ready, loaded]


def measure_workloads(options, contenders, probes):
    """Servers that stay up, asked in turn."""
    workloads = [workload for workload in WORKLOADS if workload.name in options.names]
    # `shared-seen` needs its turn's `shared-new` to have come last; and minutes pass.
    rows = {workload.name: Row(workload.title, workload.smaller_is_better,
                               attempts=1 if workload.heavy else None)
            for workload in workloads}
    with contextlib.ExitStack() as running:
        def started(contender, **slots):
            server = contender.start(**slots)
            running.callback(server.stop)
            return server

        wide = {contender.name: started(contender) for contender in contenders}
        long = {contender.name: started(contender, slots=1) for contender in contenders
                if contender.splits_cache and any(workload.long for workload in workloads)}
        for turn in range(options.rounds):
            for workload in workloads:
                if workload.heavy and turn >= options.heavy_rounds:
                    continue

                def figure(contender, number):
                    server = workload.long and long.get(contender.name) or wide[contender.name]
                    value, probed = probes.around(
                        contender, lambda: asyncio.run(measure(workload, server, number)))
                    return value, probes.bound(workload, probed)

                measured(options, rows[workload.name], contenders, turn, figure)
    return rows


def measure_engines(options, contenders, probes):
    workloads = [workload for workload in WORKLOADS if workload.name in engines.NAMES]
    rows = {workload.name: Row(workload.title) for workload in workloads}
    for turn in range(options.rounds):
        rates, disturbances, around = {}, [], None
        for contender in in_turn(contenders, turn):
            machine.wait_until_quiet(options.patience)

            def figure():
                if isinstance(contender, Sconce):
                    return engines.sconce(options.forward, contender.model, options.threads)
                return engines.llama(options.llama, contender.model, options.threads)

            with Disturbance() as disturbance:
                rates[contender.name], probed = probes.around(contender, figure)
            around = probed or around
            disturbances.append(disturbance)
            log(f"round {turn + 1}  engine of {contender.name}:", rates[contender.name],
                f"others {disturbance.share:.0%}")
        for workload in workloads:
            name = workload.name
            rows[name].add({contender: rate[name] for contender, rate in rates.items()},
                           disturbances, probes.bound(workload, around))
    return rows


def best_of(probes):
    """The machine at its least disturbed."""
    return {key: max(probe[key] for probe in probes) for key in probes[0]} if probes else None


def probe_line(probed):
    return (f"The machine at best, {probed['isa']} on {probed['threads']} threads: reads "
            f"{probed['read_bytes'] / 1e9:.1f} GB/s; multiplies {probed['int4_macs'] / 1e9:.0f} G/s "
            f"of 4-bit weights, {probed['int8_macs'] / 1e9:.0f} of 8-bit weights, "
            f"{probed['f32_macs'] / 1e9:.0f} of floats, "
            f"{probed['kv_macs'] / 1e9:.0f} of keys and values.")


def describe(options, file, best):
    command = shlex.join(["benches/compare.sh", *options_given()])
    lines = [f"`{command}` at commit {machine.commit()}, {time.strftime('%Y-%m-%d')}: "
             f"{machine.describe()}, {options.threads} threads. "
             f"The file's weights: {gguf.Model(file).formats}."]
    if best != file:
        lines.append(f"Beside it llama.cpp's fastest format: {gguf.Model(best).formats}.")
    return " ".join(lines)


def options_given():
    """What was asked for, without the paths that compare.sh fills in."""
    filled = {"--sconce", "--llama", "--forward", "--roofline", "--model", "--python", "--cache",
              "--write"}
    given = iter(sys.argv[1:])
    for word in given:
        name, is_joined, _ = word.partition("=")
        if name not in filled:
            yield word
        elif not is_joined:
            next(given)


def label(options):
    name = options.model_shape and f"{options.model_shape} {options.quant}"
    return f"{report.SECTION}: {name or 'smollm2:135m'}"


def main():
    # Whoever ends this program ends its servers with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    options = arguments()
    file, best = model_files(options)
    rivals = contenders(options, file, best)
    names = [rival.name for rival in rivals]
    probes = Probes(options, gguf.Model(file))
    begun = time.monotonic()
    starts = measure_starts(options, rivals) if options.starts else []
    served = measure_workloads(options, rivals, probes)
    alone = measure_engines(options, rivals, probes) if options.forward else {}
    probed = best_of(probes.taken)

    title = label(options).removeprefix(f"{report.SECTION}: ")
    parts = [f"### {title}", describe(options, file, best)]
    if probed:
        parts.append(probe_line(probed))
    parts += ["Over HTTP:", report.table([*served.values(), *starts], names)]
    if alone:
        parts += ["Inside the engines:", report.table(list(alone.values()), names)]
    text = "\n\n".join(parts)
    print(text)
    log(f"took {(time.monotonic() - begun) / 60:.0f} min")
    if options.write:
        report.write(options.write, label(options), text)


if __name__ == "__main__":
    main()
