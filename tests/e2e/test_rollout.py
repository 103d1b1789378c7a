"""Versions are swapped again and again at 50 requests a second: none fails, and none is cut."""

import concurrent.futures
import http.client
import json
import pathlib
import statistics
import subprocess
import threading
import time

import pytest

from conftest import BINARY, MODEL, PATIENCE
from test_fleet import Machine, is_alive, processes, until

RATE = 50
# What two cores carry of the real model, beside a worker that starts.
REAL_RATE = 4
NUM_SWAPS = 20
NUM_ROLLBACKS = 5
NUM_REAL_SWAPS = 5
NUM_EXCHANGES = 3
NUM_TOKENS = 16


class Server:
    def __init__(self, machine, model="alpha:prod", rate=RATE):
        self.machine, self.model, self.rate = machine, model, rate
        self.processes = machine.up(model)
        self.host = self.processes["url"].removeprefix("http://")

    def stream(self, due):
        """One streamed completion: seconds from when it was due to its first token."""
        body = dict(model=self.model, prompt="x y z", max_tokens=NUM_TOKENS, stream=True, ignore_eos=True)
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
            due += 1 / self.server.rate

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ends.set()
        self.thread.join()
        self.pool.shutdown()

    def more(self, num):
        """Waits until so many more are sent."""
        wanted = len(self.answers) + num
        until(lambda: len(self.answers) >= wanted)

    def failures(self):
        return [str(it.exception()) for it in self.answers if it.exception()]

    def ttfts(self, begin, end):
        done = [it.result() for it in self.answers if not it.exception()]
        return [ttft for due, ttft in done if begin <= due < end]


@pytest.fixture
def machine(tmp_path_factory):
    machine = Machine(tmp_path_factory.mktemp("rollout"))
    yield machine
    machine.run("stop", "--all", "--timeout", "20")


@pytest.fixture
def server(machine):
    return Server(machine)


@pytest.fixture
def real(machine):
    """A server of the real model: a version as it is, and one with another default."""
    machine.worker = ["--", "--max-model-len", "512", "--max-num-seqs", "16"]
    machine.run("import", str(path_of_model()), "--name", "real")
    defaults = machine.root / "real.toml"
    defaults.write_text('base = "real@1"\n[sampling]\ntemperature = 0.5\n')
    machine.run("create", "real", "--file", str(defaults))
    machine.run("alias", "set", "real:prod", "real@1")
    return Server(machine, "real:prod", REAL_RATE)


def path_of_model():
    if pathlib.Path(MODEL).exists():
        return pathlib.Path(MODEL).resolve()
    listed = subprocess.run([BINARY, "list", "--json"], capture_output=True, text=True, check=True)
    return next(it["model"] for it in json.loads(listed.stdout) if it["name"] == MODEL)


def percentile(values, share):
    return statistics.quantiles(values, n=100, method="inclusive")[share - 1] * 1000


def report(what, before, during):
    for name, values in [("quiet", before), (what, during)]:
        print(
            f"{name}: {len(values)} streams, time to first token p50 {percentile(values, 50):.0f} ms, "
            f"p99 {percentile(values, 99):.0f} ms, longest {max(values) * 1000:.0f} ms"
        )
    print(f"added p99: {percentile(during, 99) - percentile(before, 99):.0f} ms")


def test_swaps_and_rollbacks_under_load_fail_no_request_and_cut_no_stream(server):
    with Load(server) as load:
        begin = time.monotonic()
        load.more(10 * RATE)
        quiet = time.monotonic()
        for swap in range(NUM_SWAPS):
            server.machine.run("promote", f"alpha@{2 - swap % 2}", "--name", "alpha:prod")
        for _ in range(NUM_ROLLBACKS):
            server.machine.run("promote", "alpha@2", "--name", "alpha:prod")
            server.machine.run("rollback", "alpha:prod")
        end = time.monotonic()

    assert load.failures() == []
    report("swapping", load.ttfts(begin, quiet), load.ttfts(quiet, end))
    history = server.machine.json("history", "alpha:prod", "--limit", "100")
    deeds = [it["action"] for it in history]
    assert deeds.count("promote") == NUM_SWAPS + NUM_ROLLBACKS and deeds.count("rollback") == NUM_ROLLBACKS
    assert {it["result"] for it in history} == {"done"}


def test_swaps_of_the_real_model_fail_no_request_and_cut_no_stream(real):
    with Load(real) as load:
        begin = time.monotonic()
        load.more(5 * REAL_RATE)
        quiet = time.monotonic()
        for swap in range(NUM_REAL_SWAPS):
            real.machine.run("promote", f"real@{2 - swap % 2}", "--name", "real:prod")
            load.more(2 * REAL_RATE)
        end = time.monotonic()

    assert load.failures() == []
    report("swapping the real model", load.ttfts(begin, quiet), load.ttfts(quiet, end))
    history = real.machine.json("history", "real:prod")
    assert [(it["action"], it["result"]) for it in history] == [("promote", "done")] * NUM_REAL_SWAPS


def test_routers_are_exchanged_under_load_without_a_failed_request(server):
    routers = {processes(server.processes)["router"]}
    with Load(server) as load:
        begin = time.monotonic()
        load.more(4 * RATE)
        quiet = time.monotonic()
        for _ in range(NUM_EXCHANGES):
            server.machine.run("restart", "alpha:prod", "--router")
            [now] = server.machine.json("ps")
            routers.add(processes(now)["router"])
            load.more(RATE)
        end = time.monotonic()

    assert load.failures() == []
    assert len(routers) == NUM_EXCHANGES + 1
    # Those before have ended by themselves.
    until(lambda: sum(map(is_alive, routers)) == 1)
    report("exchanging routers", load.ttfts(begin, quiet), load.ttfts(quiet, end))
