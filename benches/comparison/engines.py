"""The engines by themselves, without servers: Sconce's forward bench, and llama.cpp's own tools.

Each function measures once and returns tokens per second by the name of the workload.
"""

import json
import os
import subprocess

from .workloads import WORKLOADS

# Tokens that each stream decodes, as in `benches/forward.rs`.
TOKENS = 48
BATCHES = {"decode-8": 8, "decode-32": 32}
NAMES = [workload.name for workload in WORKLOADS if workload.kind in ("decode", "prefill")]


def output(command, **environment):
    run = subprocess.run(command, capture_output=True, text=True, check=False,
                         env=os.environ | environment)
    if run.returncode != 0:
        raise RuntimeError(f"{command[0]} failed:\n{run.stderr[-2000:]}")
    return run.stdout


def sconce(binary, model, threads):
    rates = json.loads(output([binary, str(threads), "--json"], SCONCE_TEST_MODEL=model))
    return {name: rates[name] for name in NAMES}


def llama(directory, model, threads):
    # A warm-up computes a whole prompt: too much for the long one, which needs none.
    rates = {
        "prefill-512": bench(directory, model, threads, "-n", "0", "-p", "512")[0],
        "prefill-4096": bench(directory, model, threads, "-n", "0", "-p", "4096", "--no-warmup")[0],
    }
    rates["decode-1"], rates["decode-1-long"] = bench(
        directory, model, threads, "-p", "0", "-n", str(TOKENS), "-d", "128,2048")
    return rates | batched_bench(directory, model, threads)


def bench(directory, model, threads, *arguments):
    command = [f"{directory}/llama-bench", "-m", model, "-t", str(threads), "-r", "1",
               "-o", "json", *arguments]
    return [run["avg_ts"] for run in json.loads(output(command))]


def batched_bench(directory, model, threads):
    streams = list(BATCHES.values())
    context = max(streams) * (128 + TOKENS)
    command = [f"{directory}/llama-batched-bench", "-m", model, "-t", str(threads),
               "-tb", str(threads), "-c", str(context), "-npp", "128", "-ntg", str(TOKENS),
               "-npl", ",".join(map(str, streams)), "--output-format", "jsonl"]
    lines = [json.loads(line) for line in output(command).splitlines() if line.startswith("{")]
    by_streams = {line["pl"]: line["speed_tg"] for line in lines}
    return {name: by_streams[count] for name, count in BATCHES.items()}
