"""Routers succeed each other on one port, as real processes, while clients go on; and routers end."""

import concurrent.futures
import http.client
import json
import signal
import subprocess
import threading
import time

import pytest

from conftest import BINARY, PATIENCE, Output

RATE = 50
NUM_SUCCESSIONS = 4


class Process:
    """A process of `sconce`, with its standard output."""

    def __init__(self, *arguments, log):
        self.process = subprocess.Popen(
            [BINARY, *arguments], stdout=subprocess.PIPE, stderr=log, text=True
        )
        self.output = Output(self.process)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)


class Service:
    """A worker of the hash model, whose steps take a while, and routers before it."""

    def __init__(self, root):
        self.root = root
        self.log = open(root / "stderr.log", "w+")
        self.socket = f"unix:{root}/worker.sock"
        model = ["--model", "hash", "--name", "hash", "--hash-step-us", "2000", "--max-model-len", "4096"]
        self.worker = Process("worker", *model, "--listen", self.socket, log=self.log)
        self.routers, self.port = [], 0

    def router(self, *flags):
        """One more router, once it listens."""
        router = Process(
            "router", "--worker", self.socket, "--listen", f"127.0.0.1:{self.port}", "--no-auth",
            "--database", str(self.root / "keys.db"), *flags, log=self.log,
        )
        self.routers.append(router)
        self.port = int(router.output.find(r"listening http://127\.0\.0\.1:(\d+)").group(1))
        return router.process

    def wait_until_ready(self):
        until(lambda: self.get("/ready") == 200)

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        finally:
            connection.close()

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def stop(self):
        for process in [*self.routers, self.worker]:
            process.kill()
        self.log.close()


@pytest.fixture
def service(tmp_path):
    service = Service(tmp_path)
    yield service
    service.stop()


def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def ask(connection, stream, max_tokens=16):
    """Asks for a completion; the answer's head is awaited."""
    body = dict(model="hash", prompt=[1, 2, 3], max_tokens=max_tokens, stream=stream, ignore_eos=True)
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    return connection.getresponse()


def check(reply, stream):
    """Fails unless an answer is whole."""
    text = reply.read().decode()
    assert reply.status == 200, text
    whole = text.endswith("data: [DONE]\n\n") if stream else json.loads(text)["choices"]
    assert whole, text


def complete(service, stream, max_tokens=16):
    connection = service.connect()
    try:
        check(ask(connection, stream, max_tokens), stream)
    finally:
        connection.close()


def keep_asking(service, ends):
    """Asks on one connection, as long as the server keeps it. How many answers there were."""
    connection, num = service.connect(), 0
    while not ends.is_set():
        check(ask(connection, stream=num % 2 == 0), num % 2 == 0)
        num += 1
        ends.wait(0.1)
    connection.close()
    return num


def test_no_request_fails_at_50_a_second_while_routers_succeed_each_other(service):
    takeover = ["--takeover", str(service.root / "takeover")]
    service.router(*takeover)
    service.wait_until_ready()
    ends = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(128) as pool:
        kept = [pool.submit(keep_asking, service, ends) for _ in range(4)]
        asked, due = [], time.monotonic()
        for i in range((NUM_SUCCESSIONS + 1) * RATE):
            time.sleep(max(0, due - time.monotonic()))
            due += 1 / RATE
            # Some streams outlive the router that they began with.
            max_tokens = 1500 if i % 25 == 0 else 16
            asked.append(pool.submit(complete, service, i % 2 == 0, max_tokens))
            if i % RATE == RATE // 2 and len(service.routers) <= NUM_SUCCESSIONS:
                if len(service.routers) > 1:
                    # It offers the port once it has it.
                    log = service.root / "stderr.log"
                    num = len(service.routers) - 1
                    until(lambda: log.read_text().count("has taken the port over") >= num)
                service.router(*takeover)
        for answer in asked:
            answer.result()
        ends.set()
        assert all(it.result() > 1 for it in kept)

    assert len(service.routers) == NUM_SUCCESSIONS + 1
    *old, last = [it.process for it in service.routers]
    # They end by themselves.
    assert [it.wait(PATIENCE) for it in old] == [0] * NUM_SUCCESSIONS
    assert last.poll() is None


def test_a_router_that_ends_says_so_and_its_streams_too(service):
    router = service.router("--drain-timeout", "2", "--shutdown-delay", "2")
    service.wait_until_ready()
    # The first would end in time, the second not.
    short, long = service.connect(), service.connect()
    short = ask(short, stream=True, max_tokens=100)
    long = ask(long, stream=True, max_tokens=4000)

    router.send_signal(signal.SIGTERM)

    until(lambda: service.get("/ready") == 503)
    check(short, stream=True)
    events = long.read().decode().strip().split("\n\n")
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "server_stopping"
    assert router.wait(PATIENCE) == 0
    with pytest.raises(ConnectionRefusedError):
        service.get("/live")


def test_a_second_signal_ends_a_router_now(service):
    router = service.router("--drain-timeout", "3600")
    service.wait_until_ready()
    stream = ask(service.connect(), stream=True, max_tokens=4000)

    router.send_signal(signal.SIGTERM)
    log = service.root / "stderr.log"
    until(lambda: "Drain" in log.read_text())
    router.send_signal(signal.SIGTERM)

    assert router.wait(PATIENCE) == 0
    events = stream.read().decode().strip().split("\n\n")
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "server_stopping"
