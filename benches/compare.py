"""Sconce beside llama.cpp's llama-server: same machine, same GGUF, same threads, same prompts.

Both servers run for the whole comparison; the load alternates between them, round by round, and
medians are compared. `benches/compare.sh` builds both and calls this. Uses only the standard
library. Prints a Markdown table.
"""

import argparse
import asyncio
import json
import os
import pathlib
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    def __init__(self, name, command, port):
        self.name, self.port = name, port
        self.log = tempfile.TemporaryFile()
        self.begun = time.monotonic()
        self.process = subprocess.Popen(
            command, stdout=self.log, stderr=self.log, start_new_session=True
        )
        self.wait()

    def wait(self):
        """Until a completion is answered, not merely /health."""
        while True:
            try:
                models = urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/models")
                self.model = json.load(models)["data"][0]["id"]
                asyncio.run(complete(self, [1, 2, 3], 1))
                return
            except (OSError, LookupError, RuntimeError, asyncio.IncompleteReadError):
                if self.process.poll() is not None:
                    self.log.seek(0)
                    sys.exit(f"{self.name} ended:\n{self.log.read().decode()[-3000:]}")
                time.sleep(0.02)

    def processes(self):
        """This process and its descendants."""
        parents = {}
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    stat = (entry / "stat").read_text()
                except OSError:
                    continue
                parents[int(entry.name)] = int(stat.rsplit(")", 1)[1].split()[1])
        found = {self.process.pid}
        while True:
            more = {pid for pid, parent in parents.items() if parent in found} - found
            if not more:
                return found
            found |= more

    def resident_mib(self):
        total = 0
        for pid in self.processes():
            for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    total += int(line.split()[1])
        return total / 1024

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)


async def complete(server, prompt, max_tokens):
    """Streams one greedy completion. Times of its events, and its token count by `usage`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1 << 20)
    body = json.dumps(
        {
            "model": server.model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0,
            "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True},
        }
    ).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    times, tokens = [], None
    try:
        status = await reader.readline()
        if b" 200 " not in status:
            raise RuntimeError(f"{server.name}: {status!r} {await reader.read(2000)!r}")
        while line := await reader.readline():
            if line.startswith(b'data: {"error"'):
                raise RuntimeError(f"{server.name}: {line!r}")
            if line.startswith(b"data: {"):
                times.append(time.monotonic())
                if b'"usage":{' in line.replace(b" ", b""):
                    tokens = json.loads(line[6:])["usage"]["completion_tokens"]
    finally:
        writer.close()
    if tokens != max_tokens:
        raise RuntimeError(f"{server.name}: {tokens} tokens instead of {max_tokens}")
    return times, tokens


def prompt(length):
    """Ordinary tokens at random, so that no cache helps anyone."""
    return [random.randrange(1000, 20000) for _ in range(length)]


async def decode(server, streams, max_tokens, context):
    """Tokens per second of all streams while all of them are decoding."""
    runs = await asyncio.gather(
        *[complete(server, prompt(context), max_tokens) for _ in range(streams)]
    )
    # The first event is the first token's; the last two are the finish and the usage.
    begin = max(times[0] for times, _ in runs)
    end = min(times[-1] for times, _ in runs)
    if end <= begin:
        raise RuntimeError("the streams did not overlap: more tokens are needed")
    total = 0.0
    for times, tokens in runs:
        inside = sum(begin < at <= end for at in times)
        total += tokens * inside / len(times)
    return total / (end - begin)


async def prefill(server, length):
    """Prompt tokens per second until the first token."""
    begun = time.monotonic()
    times, _ = await complete(server, prompt(length), 1)
    return length / (times[0] - begun)


async def shared(server, streams, prefix):
    """Requests per second of streams that share a prefix, end to end."""
    common = prompt(prefix)
    begun = time.monotonic()
    await asyncio.gather(*[complete(server, common + prompt(16), 32) for _ in range(streams)])
    return streams / (time.monotonic() - begun)


WORKLOADS = {
    "decode, 1 stream, tokens/s": lambda s: decode(s, 1, 192, 32),
    "decode, 8 streams, tokens/s": lambda s: decode(s, 8, 160, 32),
    "decode, 32 streams, tokens/s": lambda s: decode(s, 32, 160, 32),
    "prefill, 512 tokens, tokens/s": lambda s: prefill(s, 512),
}
# Minutes a round for a peer whose slots share nothing: only with --shared.
SHARED = {
    "32 streams share 1,000 tokens, requests/s": lambda s: shared(s, 32, 1000),
}


def steal():
    """Share of this machine's CPU time that neighbours took, so far."""
    fields = [int(x) for x in open("/proc/stat").readline().split()[1:]]
    return fields[7], sum(fields)


def measure(servers, rounds):
    figures = {name: {server.name: [] for server in servers} for name in WORKLOADS}
    for turn in range(rounds):
        order = servers if turn % 2 == 0 else servers[::-1]
        for name, workload in WORKLOADS.items():
            for server in order:
                before = steal()
                rate = asyncio.run(workload(server))
                after = steal()
                stolen = (after[0] - before[0]) / max(1, after[1] - before[1])
                figures[name][server.name].append(rate)
                print(f"round {turn + 1}  {name:44} {server.name:13} {rate:9.1f}  steal {stolen:4.0%}",
                      file=sys.stderr, flush=True)
    return figures


def table(servers, figures, peer):
    ours = servers[0]
    lines = [
        f"| | {ours.name} | {peer.name} | ratio of medians | ratios by round |",
        "|---|---|---|---|---|",
    ]
    for name, by_server in figures.items():
        a, b = by_server[ours.name], by_server[peer.name]
        ratios = sorted(x / y for x, y in zip(a, b))
        lines.append(
            f"| {name} | {statistics.median(a):.0f} | {statistics.median(b):.0f} "
            f"| **{statistics.median(a) / statistics.median(b):.2f}** "
            f"| {ratios[0]:.2f} – {ratios[-1]:.2f} |"
        )
    lines.append(
        f"| resident memory after the load, MiB | {ours.resident_mib():.0f} | {peer.resident_mib():.0f} "
        f"| {ours.resident_mib() / peer.resident_mib():.2f} | |"
    )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sconce", required=True, help="the sconce binary, built for release")
    parser.add_argument("--llama-server", required=True)
    parser.add_argument("--model", required=True, help="a GGUF file")
    parser.add_argument("--peer-model", help="the peer's GGUF file, when it differs")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shared", action="store_true", help="also measure a shared prefix")
    options = parser.parse_args()
    if options.shared:
        WORKLOADS.update(SHARED)

    random.seed(1)
    port, peer_port = free_port(), free_port()
    threads = str(options.threads)
    state = tempfile.TemporaryDirectory()
    os.environ["XDG_RUNTIME_DIR"] = state.name
    servers = []
    try:
        servers.append(Server(
            "sconce",
            [options.sconce, "up", options.model, "--port", str(port), "--threads", threads,
             "--no-auth", "--database", state.name + "/keys.db", "--", "--max-num-seqs", "32"],
            port,
        ))
        servers.append(Server(
            "llama-server",
            [options.llama_server, "-m", options.peer_model or options.model, "-t", threads,
             "-tb", threads, "-np", "32", "-c", str(32 * 1280), "--port", str(peer_port),
             "--no-webui"],
            peer_port,
        ))
        figures = measure(servers, options.rounds)
        print(table(servers, figures, servers[1]))
    finally:
        for server in servers:
            server.stop()


if __name__ == "__main__":
    main()
