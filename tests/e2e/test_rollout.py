"""Versions are swapped again and again at 50 requests a second: none fails, and none is cut."""

import concurrent.futures
import http.client
import json
import statistics
import threading
import time

import pytest

from conftest import PATIENCE
from test_fleet import Machine

RATE = 50
NUM_SWAPS = 20
NUM_ROLLBACKS = 5
NUM_TOKENS = 16


class Server:
    def __init__(self, machine):
        self.machine = machine
        self.host = machine.up("alpha:prod")["url"].removeprefix("http://")

    def stream(self, due):
        """One streamed completion: seconds from when it was due to its first token."""
        body = dict(model="alpha:prod", prompt="x y z", max_tokens=NUM_TOKENS, stream=True, ignore_eos=True)
        connection = http.client.HTTPConnection(self.host, timeout=PATIENCE)
        try:
            connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
            reply = connection.getresponse()
            if reply.status != 200:
                raise AssertionError(f"{reply.status} {reply.read()[:300]}")
            first = reply.readline()
            ttft = time.monotonic() - due
            lines = [first, *reply.read().split(b"\n")]
        finally:
            connection.close()
        chunks = [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]
        reasons = [it["choices"][0]["finish_reason"] for it in chunks if it.get("choices")]
        if lines[-3:].count(b"data: [DONE]") != 1 or reasons[-1:] != ["length"]:
            raise AssertionError(f"cut: {lines[-4:]}")
        return due, ttft


class Load:
    """Sends requests at a constant rate, however long the answers take."""

    def __init__(self, server):
        self.server, self.answers = server, []
        self.ends = threading.Event()
        self.pool = concurrent.futures.ThreadPoolExecutor(256)
        self.thread = threading.Thread(target=self.send)

    def send(self):
        due = time.monotonic()
        while not self.ends.wait(max(0, due - time.monotonic())):
            self.answers.append(self.pool.submit(self.server.stream, due))
            due += 1 / RATE

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ends.set()
        self.thread.join()
        self.pool.shutdown()

    def failures(self):
        return [str(it.exception()) for it in self.answers if it.exception()]

    def ttfts(self, begin, end):
        done = [it.result() for it in self.answers if not it.exception()]
        return [ttft for due, ttft in done if begin <= due < end]


@pytest.fixture
def server(tmp_path_factory):
    machine = Machine(tmp_path_factory.mktemp("rollout"))
    yield Server(machine)
    machine.run("stop", "--all", "--timeout", "20")


def percentile(values, share):
    return statistics.quantiles(values, n=100)[share - 1] * 1000


def test_swaps_and_rollbacks_under_load_fail_no_request_and_cut_no_stream(server):
    with Load(server) as load:
        begin = time.monotonic()
        while len(load.answers) < 10 * RATE:
            time.sleep(0.1)
        quiet = time.monotonic()
        for swap in range(NUM_SWAPS):
            server.machine.run("promote", f"alpha@{2 - swap % 2}", "--name", "alpha:prod")
        for _ in range(NUM_ROLLBACKS):
            server.machine.run("promote", "alpha@2", "--name", "alpha:prod")
            server.machine.run("rollback", "alpha:prod")
        end = time.monotonic()

    assert load.failures() == []
    before, during = load.ttfts(begin, quiet), load.ttfts(quiet, end)
    for name, values in [("quiet", before), ("swapping", during)]:
        print(
            f"{name}: {len(values)} streams, time to first token p50 {percentile(values, 50):.0f} ms, "
            f"p99 {percentile(values, 99):.0f} ms, longest {max(values) * 1000:.0f} ms"
        )
    print(f"added p99: {percentile(during, 99) - percentile(before, 99):.0f} ms")
    history = server.machine.json("history", "alpha:prod", "--limit", "100")
    deeds = [it["action"] for it in history]
    assert deeds.count("promote") == NUM_SWAPS + NUM_ROLLBACKS and deeds.count("rollback") == NUM_ROLLBACKS
    assert {it["result"] for it in history} == {"done"}
