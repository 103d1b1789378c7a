"""A storm of clients that hang up, beside canaries whose every token is known.

Serves the hash model with a cache that is too small for all, so that sequences are preempted and
prefixes evicted all the time. Aborted requests share their beginnings with the canaries, at block
edges and beside them. A canary's answer must be the one it gave alone, and nothing may be left at
the end. `tests/run.sh soak [--aborts N]` runs it; uses only the standard library.
"""

import argparse
import asyncio
import json
import os
import pathlib
import random
import re
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request

BINARY = os.environ.get("SCONCE_BIN", "target/debug/sconce")
CANARIES = 40
ABORTERS = 24
# Blocks have 16 tokens.
EDGES = [15, 16, 17, 31, 32, 33, 34, 48]
WORKER = ["--num-blocks", "120", "--max-num-seqs", "48", "--max-queue", "4096",
          "--max-model-len", "700"]


def request(prompt, max_tokens):
    body = json.dumps(dict(
        model="hash", prompt=prompt, max_tokens=max_tokens, temperature=0, ignore_eos=True, stream=True,
    )).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def prompt(family, length):
    return [10 + family % 50] * length


async def canary(port, index):
    """The whole answer to one request; what went wrong when it is not whole."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(prompt(index, 33) + [index], 120))
    reply = await reader.read(-1)
    writer.close()
    if b"data: [DONE]" not in reply or b'"error"' in reply:
        return f"broken: {reply[-300:]!r}"
    events = [line[6:] for line in reply.split(b"\n") if line.startswith(b"data: {")]
    return "".join(json.loads(event)["choices"][0]["text"] for event in events)


async def abort(port, until, counts):
    """Sends requests and resets their connections, at any moment of their lives."""
    while counts["aborts"] < until:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        reset = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        writer.write(request(prompt(random.randrange(50), random.choice(EDGES)), 400))
        await asyncio.sleep(random.random() * 0.03)
        writer.transport.abort()
        counts["aborts"] += 1


async def storm(port, aborts):
    alone = [await canary(port, index) for index in range(CANARIES)]
    counts = {"aborts": 0, "canaries": 0, "wrong": 0}
    aborters = [asyncio.create_task(abort(port, aborts, counts)) for _ in range(ABORTERS)]
    while counts["aborts"] < aborts:
        together = await asyncio.gather(*[canary(port, index) for index in range(CANARIES)])
        counts["canaries"] += CANARIES
        for index, (answer, expected) in enumerate(zip(together, alone)):
            if answer != expected:
                counts["wrong"] += 1
                print(f"canary {index}: {answer[:300]!r} instead of {expected[:300]!r}")
    await asyncio.gather(*aborters)
    return counts


def metrics(port):
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    return {name: float(value) for name, value in re.findall(r"^(sconce_\w+)\{.*\} (\S+)$", text, re.M)}


def left_over(port):
    """What is still held once everything has ended; empty is right."""
    names = ["sconce_num_requests_running", "sconce_num_requests_waiting",
             "sconce_kv_cache_usage_perc", "sconce_open_streams"]
    deadline = time.monotonic() + 60
    while True:
        held = {name: value for name, value in metrics(port).items() if name in names and value}
        if not held or time.monotonic() > deadline:
            return held
        time.sleep(0.1)


def start(command, pattern):
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for line in child.stdout:
        if match := re.match(pattern, line):
            return child, match
    sys.exit(f"{command} ended with {child.wait()}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--aborts", type=int, default=20_000)
    parser.add_argument("--depth", choices=["1", "2"], default="2", help="steps that may be in flight")
    options = parser.parse_args()
    children = []
    with tempfile.TemporaryDirectory() as directory:
        state = pathlib.Path(directory)
        address = f"unix:{state / 'worker.sock'}"
        try:
            worker, _ = start(
                [BINARY, "worker", "--model", "hash", "--listen", address, *WORKER,
                 "--hash-depth", options.depth], "ready")
            children.append(worker)
            router, match = start(
                [BINARY, "router", "--worker", address, "--listen", "127.0.0.1:0", "--no-auth",
                 "--public-metrics", "--database", str(state / "keys.db")],
                r"listening http://127\.0\.0\.1:(\d+)")
            children.append(router)
            port = int(match.group(1))
            while "sconce_kv_cache_usage_perc" not in metrics(port):
                time.sleep(0.05)
            counts = asyncio.run(storm(port, options.aborts))
            held = left_over(port)
            preemptions = metrics(port)["sconce_num_preemptions_total"]
        finally:
            for child in children:
                child.kill()
                child.wait()
    print(f"{counts['aborts']} requests aborted, {counts['canaries']} canaries, {counts['wrong']} wrong, "
          f"{preemptions:.0f} preemptions, left over: {held or 'nothing'}")
    if counts["wrong"] or held or not preemptions:
        sys.exit(1)


if __name__ == "__main__":
    main()
