"""A batch whose routers and workers are killed all the time, and what it does to others.

Serves the hash model, whose every answer is known from asking before. Its routers and its workers are
killed with SIGKILL, one after the other, and started again; every line must be answered exactly once,
and rightly. With --database postgres, two routers share the batch by way of a PostgreSQL server, which
this starts. With --ttft, nobody is killed, and the time to the first token of requests that are not the
batch's is measured without it and beside it. `tests/run.sh soak` runs all of it; uses only the standard
library.
"""

import argparse
import concurrent.futures
import contextlib
import http.client
import itertools
import json
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

sys.path.append(str(pathlib.Path(__file__).parent / "e2e"))
import postgres  # noqa: E402

BINARY = os.environ.get("SCONCE_BIN", "target/debug/sconce")
ENDPOINT = "/v1/completions"
# So many questions; lines repeat them.
NUM_PROMPTS = 256
MAX_TOKENS = 16
# Nothing here takes so long, on any machine.
PATIENCE = 3600


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Process:
    """A child that is started again after it was killed."""

    def __init__(self, command, ready, log):
        self.command, self.ready, self.log = command, ready, log
        self.start()

    def start(self):
        self.child = subprocess.Popen(
            self.command, stdout=subprocess.PIPE, stderr=self.log, text=True,
        )
        for line in self.child.stdout:
            if line.startswith(self.ready):
                return
        raise AssertionError(f"{self.command} ended with {self.child.wait()}")

    def kill(self):
        self.child.send_signal(signal.SIGKILL)
        self.child.wait()


class Fleet:
    """Routers and workers, each of them killable. `database` is where the routers keep the batch."""

    def __init__(self, state, options, database):
        self.log = open(state / "log", "w+")
        # What the hash model answers depends on the salt of the key's cache, which a restart must not change.
        shared = ["--database", database, "--pepper", str(state / "pepper")]
        keys = [BINARY, "keys", "create", "--name", "soak", *shared]
        self.key = subprocess.run(keys, check=True, capture_output=True, text=True).stdout.split()[-1]
        sockets = [f"unix:{state / f'worker{i}.sock'}" for i in range(2 if options.model == "hash" else 1)]
        self.num_words = 1 if options.model == "hash" else 64
        kind = ["--hash-step-us", str(options.step_us)] if options.model == "hash" else []
        worker = lambda address: Process(
            [BINARY, "worker", "--model", options.model, "--name", "hash", "--listen", address, *kind,
             "--max-num-seqs", str(options.max_num_seqs), "--max-model-len", "512"], "ready", self.log)
        self.workers = [worker(address) for address in sockets]
        # Those of one SQLite file are on one machine, where one is enough.
        self.ports = [free_port() for _ in range(2 if options.database == "postgres" else 1)]
        router = lambda port: Process(
            [BINARY, "router", *(word for it in sockets for word in ("--worker", it)), "--listen",
             f"127.0.0.1:{port}", *shared, "--files", str(state / "files")], "listening", self.log)
        self.routers = [router(port) for port in self.ports]
        self.turns = itertools.cycle(self.ports)

    def headers(self, content_type="application/json"):
        return {"Content-Type": content_type, "Authorization": f"Bearer {self.key}"}

    def request(self, method, path, body=None, content_type="application/json"):
        """Status and body, of one router after the other; asks again while nobody is there."""
        deadline = time.monotonic() + PATIENCE
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", next(self.turns), timeout=60)
            try:
                connection.request(method, path, body, self.headers(content_type))
                reply = connection.getresponse()
                text = reply.read()
                if reply.status < 500 and reply.status != 429:
                    return reply.status, text
                problem = f"{reply.status} {text[:300]}"
            except (OSError, http.client.HTTPException) as error:
                problem = repr(error)
            finally:
                connection.close()
            assert time.monotonic() < deadline, problem
            time.sleep(0.1)

    def json(self, method, path, body=None):
        status, text = self.request(method, path, json.dumps(body) if body is not None else None)
        assert status == 200, f"{method} {path}: {status} {text[:500]}"
        return json.loads(text)

    def upload(self, content):
        form = (
            "--edge\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n"
            "--edge\r\nContent-Disposition: form-data; name=\"file\"; filename=\"lines.jsonl\"\r\n\r\n"
        ).encode() + content + b"\r\n--edge--\r\n"
        status, text = self.request("POST", "/v1/files", form, "multipart/form-data; boundary=edge")
        assert status == 200, f"{status} {text[:500]}"
        return json.loads(text)

    def batch(self, num_lines):
        file = self.upload(lines(num_lines))
        return self.json("POST", "/v1/batches", {
            "input_file_id": file["id"], "endpoint": ENDPOINT, "completion_window": "24h",
        })

    def wait(self, batch):
        deadline = time.monotonic() + PATIENCE
        while batch["status"] not in ("completed", "failed", "expired", "cancelled"):
            assert time.monotonic() < deadline, f"{batch} is not done"
            time.sleep(0.2)
            batch = self.json("GET", f"/v1/batches/{batch['id']}")
        return batch

    def content(self, file_id):
        if file_id is None:
            return []
        status, text = self.request("GET", f"/v1/files/{file_id}/content")
        assert status == 200, f"{status} {text[:500]}"
        return [json.loads(line) for line in text.splitlines()]

    def stop(self):
        for process in [*self.routers, *self.workers]:
            process.kill()
        self.log.seek(0)
        tail = self.log.read()[-4000:]
        self.log.close()
        return tail


def body(prompt):
    return dict(model="hash", prompt=f"prompt number {prompt}", max_tokens=MAX_TOKENS, temperature=0,
                ignore_eos=True)


def lines(num_lines):
    line = lambda i: dict(custom_id=f"line-{i}", method="POST", url=ENDPOINT, body=body(i % NUM_PROMPTS))
    return "".join(json.dumps(line(i)) + "\n" for i in range(num_lines)).encode()


def expected(fleet):
    """What each prompt is answered with."""
    answer = lambda i: fleet.json("POST", ENDPOINT, body(i))["choices"][0]["text"]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return list(pool.map(answer, range(NUM_PROMPTS)))


class Killer:
    """Kills one process after the other while the block runs, and starts it again."""

    def __init__(self, fleet, every):
        self.processes, self.every = [*fleet.routers, *fleet.workers], every
        self.num_kills, self.ends = 0, threading.Event()
        self.failure = None
        self.thread = threading.Thread(target=self.run)

    def run(self):
        try:
            while not self.ends.wait(self.every):
                process = self.processes[self.num_kills % len(self.processes)]
                process.kill()
                process.start()
                self.num_kills += 1
        except Exception as error:
            self.failure = error

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ends.set()
        self.thread.join()
        if self.failure:
            raise self.failure


def check(fleet, batch, answers, num_lines):
    """How many lines are lost, twice, and wrong."""
    output, failed = fleet.content(batch["output_file_id"]), fleet.content(batch["error_file_id"])
    seen = {}
    for line in output + failed:
        seen.setdefault(line["custom_id"], []).append(line)
    lost = sum(f"line-{i}" not in seen for i in range(num_lines))
    twice = sum(len(all_of) - 1 for all_of in seen.values())
    wrong = 0
    for line in output:
        choice = line["response"]["body"]["choices"][0]
        wrong += choice["text"] != answers[int(line["custom_id"][5:]) % NUM_PROMPTS]
    return dict(lost=lost, twice=twice, wrong=wrong, failed=len(failed), unknown=len(seen) - num_lines + lost)


def survive(options, state, database):
    fleet = Fleet(state, options, database)
    try:
        answers = expected(fleet)
        began = time.monotonic()
        with Killer(fleet, options.kill_every) as killer:
            batch = fleet.wait(fleet.batch(options.lines))
        took = time.monotonic() - began
        counts = check(fleet, batch, answers, options.lines)
        print(f"{options.lines} lines in {options.database} by {len(fleet.routers)} routers in {took:.1f} s, "
              f"{killer.num_kills} kills, {batch['status']}, {batch['request_counts']}, {counts}")
        return batch["status"] == "completed" and not any(counts.values()) and killer.num_kills > 0
    except BaseException:
        print(fleet.stop(), file=sys.stderr)
        raise
    finally:
        with contextlib.suppress(ValueError):
            fleet.stop()


def first_token(fleet, prompt):
    # About 300 tokens for a real model, which none has cached.
    asked = dict(body(prompt), prompt=f"{time.monotonic()} " + "a word and another " * fleet.num_words)
    connection = http.client.HTTPConnection("127.0.0.1", fleet.ports[0], timeout=60)
    began = time.monotonic()
    connection.request("POST", ENDPOINT, json.dumps(dict(asked, stream=True)), fleet.headers())
    reply = connection.getresponse()
    assert reply.status == 200, reply.read()
    reply.readline()
    took = time.monotonic() - began
    reply.read()
    connection.close()
    return took


def beside(options, state, database):
    fleet = Fleet(state, options, database)
    try:
        fleet.request("GET", "/ready")
        measure = lambda: [first_token(fleet, i) for i in range(options.requests)]
        measure()
        alone = statistics.median(measure())
        batch = fleet.batch(options.lines)
        while fleet.json("GET", f"/v1/batches/{batch['id']}")["request_counts"]["completed"] == 0:
            time.sleep(0.05)
        loaded = statistics.median(measure())
        now = fleet.json("GET", f"/v1/batches/{batch['id']}")
        print(f"median time to first token {alone * 1e3:.1f} ms alone, {loaded * 1e3:.1f} ms beside a batch "
              f"({now['status']}, {now['request_counts']}): x{loaded / alone:.2f}")
        return now["status"] == "in_progress" and loaded <= 1.3 * alone
    finally:
        fleet.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=10_000)
    parser.add_argument("--kill-every", type=float, default=5, help="seconds between two kills")
    parser.add_argument("--step-us", type=int, default=10_000, help="microseconds of a worker's step")
    parser.add_argument("--max-num-seqs", type=int, default=32)
    parser.add_argument("--database", choices=["sqlite", "postgres"], default="sqlite",
                        help="where the batch is kept; postgres: by two routers")
    parser.add_argument("--ttft", action="store_true", help="measure others' time to first token instead")
    parser.add_argument("--model", default="hash", help="a model's path, with --ttft")
    parser.add_argument("--requests", type=int, default=100, help="requests of a measurement")
    options = parser.parse_args()
    run = beside if options.ttft else survive
    with tempfile.TemporaryDirectory(prefix="sconce-soak-") as directory:
        state = pathlib.Path(directory)
        server = contextlib.nullcontext(str(state / "sconce.db"))
        if options.database == "postgres":
            server = postgres.running()
        with server as database:
            held = run(options, state, database)
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
