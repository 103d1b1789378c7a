"""Whether `sconce bench` measures what other clients measure: guidellm and `vllm-rs bench serve` on the
same server with the same prompts, in turn. Prints a table of medians over rounds, each with its spread, and
which names of vLLM's JSON ours does not have.

    pip download --no-deps vllm && unzip vllm-*.whl 'vllm/vllm-rs'
    pip install guidellm
    python benches/agreement.py --vllm-rs vllm/vllm-rs --guidellm guidellm --tokenizer DIRECTORY

The server is the hash model with steps of a fixed time, so that what is measured is known and the
machine has little to do. Either client may be left out. Both want a tokenizer, to count prompts by; one
that `tests/tiny_model.py DIRECTORY` writes will do.
"""

import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

WORDS = "a the of and to in moon boat house tree river small red cold winter light under over".split()
# What is compared, and how its unit is shown.
ROWS = {
    "TTFT, median, ms": "{:.1f}",
    "TTFT, mean, ms": "{:.1f}",
    "TPOT, median, ms": "{:.2f}",
    "TPOT, mean, ms": "{:.2f}",
    "E2E, median, ms": "{:.0f}",
    "E2E, mean, ms": "{:.0f}",
    "requests/s": "{:.3f}",
    "output tokens/s": "{:.1f}",
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sconce", default="target/release/sconce")
    parser.add_argument("--guidellm", help="its program")
    parser.add_argument("--vllm-rs", help="its program")
    parser.add_argument("--tokenizer", help="a directory with tokenizer.json, for both")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=96)
    load = parser.add_mutually_exclusive_group()
    load.add_argument("--concurrency", type=int, default=8, help="a request for each that has ended")
    load.add_argument("--rate", type=float, help="so many requests a second instead, evenly")
    parser.add_argument("--words", type=int, default=100, help="of a prompt")
    parser.add_argument("--tokens", type=int, default=50, help="of an answer")
    parser.add_argument("--step-ms", type=int, default=50, help="what a step of the model takes")
    return parser.parse_args()


class Server:
    """A worker of the hash model and a router, until the block ends."""

    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.processes = []

    def __enter__(self):
        socket = f"unix:{self.folder}/w.sock"
        self.start(
            "worker", "--model", "hash", "--name", "hash", "--listen", socket,
            "--hash-step-us", str(self.options.step_ms * 1000), "--max-num-batched-tokens", "65536",
            "--speculation", "off", waits="ready {",
        )
        said = self.start(
            "router", "--worker", socket, "--listen", "127.0.0.1:0", "--no-auth",
            "--database", f"{self.folder}/keys.db", waits="listening ",
        )
        self.url = said.split()[1]
        while not self.is_ready():
            time.sleep(0.05)
        return self

    def is_ready(self):
        try:
            return urllib.request.urlopen(f"{self.url}/ready").status == 200
        except urllib.error.HTTPError:
            return False

    def start(self, *words, waits):
        process = subprocess.Popen(
            [self.options.sconce, *words],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True,
        )
        self.processes.append(process)
        for line in process.stdout:
            if line.startswith(waits):
                return line
        raise SystemExit(f"sconce {words[0]} has ended")

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.terminate()
            process.wait()


def prompts(options, seed):
    """Prompts of one length that no run before has sent."""
    drawn = random.Random(seed)
    return [
        f"{seed}.{number} " + " ".join(drawn.choice(WORDS) for _ in range(options.words))
        for number in range(options.requests)
    ]


def write(path, texts, **fields):
    path.write_text("".join(json.dumps({"prompt": text, **fields}) + "\n" for text in texts))
    return str(path)


def run(words, **environment):
    done = subprocess.run(words, capture_output=True, text=True, env=dict(os.environ, **environment))
    if done.returncode != 0:
        raise SystemExit(f"{words[0]} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def of_vllm(result):
    """Sconce's JSON has the names of vLLM's."""
    if result["completed"] == 0 or result["failed"]:
        raise SystemExit(f"{result['failed']} requests failed")
    latency = {"TTFT": "ttft", "TPOT": "tpot", "E2E": "e2el"}
    figures = {
        f"{name}, {stat}, ms": result[f"{stat}_{key}_ms"]
        for name, key in latency.items() for stat in ("median", "mean")
    }
    figures["requests/s"] = result["request_throughput"]
    figures["output tokens/s"] = result["output_throughput"]
    return figures


def sconce(options, url, texts, folder):
    trace = write(folder / "s.jsonl", texts, max_tokens=options.tokens)
    out = folder / "s.json"
    run([
        options.sconce, "bench", "--url", url, "--model", "hash", "--trace", trace, "--ignore-eos",
        "-n", str(options.requests), "--no-live", "--save-detailed", "--output-json", str(out),
        *(["--rate", str(options.rate), "--burstiness", "inf"] if options.rate
          else ["--concurrency", str(options.concurrency)]),
    ])
    return of_vllm(json.loads(out.read_text()))


def vllm_rs(options, url, texts, folder):
    data = write(folder / "v.jsonl", texts)
    run([
        options.vllm_rs, "bench", "serve", "--backend", "openai-chat", "--base-url", url,
        "--endpoint", "/v1/chat/completions", "--model", "hash", "--tokenizer", options.tokenizer,
        "--dataset-name", "custom", "--dataset-path", data, "--ignore-eos", "--disable-tqdm",
        "--custom-output-len", str(options.tokens), "--num-prompts", str(options.requests),
        "--no-steady-state", "--save-result", "--save-detailed", "--percentile-metrics", "ttft,tpot,itl,e2el",
        "--result-filename", str(folder / "v.json"),
        # It knows no clock, but gaps that hardly differ.
        *(["--request-rate", str(options.rate), "--burstiness", "10000"] if options.rate
          else ["--max-concurrency", str(options.concurrency)]),
    ])
    return of_vllm(json.loads((folder / "v.json").read_text()))


def guidellm(options, url, texts, folder):
    data = write(folder / "g.jsonl", texts, output_tokens_count=options.tokens)
    out = folder / "g.json"
    profile = f"constant,rate={options.rate}" if options.rate else f"concurrent,streams={options.concurrency}"
    run(
        [
            options.guidellm, "run", "--backend", f"kind=openai_http,target={url},model=hash",
            "--profile", f"kind={profile}",
            "--constraint", f"kind=max_requests,count={options.requests}",
            "--data", f"kind=json_file,path={data}",
            "--tokenizer", f"kind=huggingface_auto,model={options.tokenizer}",
            "--output", f"kind=json,path={out}", "--disable-console",
        ],
        HF_HUB_OFFLINE="1",
    )
    [result] = json.loads(out.read_text())["benchmarks"]
    metrics = {name: told["successful"] for name, told in result["metrics"].items() if told and "successful" in told}
    if metrics["request_latency"]["count"] != options.requests:
        raise SystemExit("guidellm left requests out")
    # What it calls the latency between tokens is the time after the first token over the others.
    latency = {
        "TTFT": ("time_to_first_token_ms", 1), "TPOT": ("inter_token_latency_ms", 1),
        "E2E": ("request_latency", 1000),
    }
    figures = {
        f"{name}, {stat}, ms": metrics[key][stat] * scale
        for name, (key, scale) in latency.items() for stat in ("median", "mean")
    }
    # Its own rates count the start of its processes; these are from the first request to the last.
    requests = result["requests"]["successful"]
    begin = min(request["request_start_time"] for request in requests)
    end = max(request["request_end_time"] for request in requests)
    figures["requests/s"] = len(requests) / (end - begin)
    figures["output tokens/s"] = sum(request["output_tokens"] for request in requests) / (end - begin)
    return figures


def table(found):
    """Medians over rounds with their spread, and how far each client's is from ours."""
    others = [name for name in found if name != "sconce bench"]
    head = ["", "sconce bench"] + [cell for name in others for cell in (name, "difference")]
    rows = [head, ["---"] * len(head)]
    for row, shown in ROWS.items():
        values = {name: [figures[row] for figures in runs] for name, runs in found.items()}
        middle = {name: statistics.median(runs) for name, runs in values.items()}

        def cell(name):
            low, high = (shown.format(bound(values[name])) for bound in (min, max))
            return f"{shown.format(middle[name])} ({low} – {high})"

        cells = [row, cell("sconce bench")]
        for name in others:
            difference = middle["sconce bench"] / middle[name] - 1
            cells += [cell(name), f"{difference:+.1%}"]
        rows.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def missing(folder):
    """Names in vLLM's JSON that ours does not have."""
    ours, theirs = (json.loads((folder / name).read_text()) for name in ("s.json", "v.json"))
    return sorted(set(theirs) - set(ours))


def main():
    options = arguments()
    clients = {"sconce bench": sconce}
    if options.vllm_rs:
        clients["vllm-rs bench serve"] = vllm_rs
    if options.guidellm:
        clients["guidellm"] = guidellm
    found = {name: [] for name in clients}
    with tempfile.TemporaryDirectory(prefix="agreement-") as name:
        folder = pathlib.Path(name)
        with Server(options, folder) as server:
            for round_ in range(options.rounds):
                for number, (name, client) in enumerate(clients.items()):
                    texts = prompts(options, round_ * len(clients) + number)
                    began = time.monotonic()
                    found[name].append(client(options, server.url, texts, folder))
                    print(f"round {round_ + 1}, {name}: {time.monotonic() - began:.0f} s", flush=True)
        print(f"\n{table(found)}")
        if options.vllm_rs:
            print(f"\nof vLLM's names, ours has all but: {', '.join(missing(folder)) or 'none'}")


if __name__ == "__main__":
    main()
