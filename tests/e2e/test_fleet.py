"""Fleets: launchers, routers and workers that die, versions that come and go, under load.

The workers serve the hash model: manifests of the store are made to name it, and a file of its name
stands for what they load.
"""

import http.client
import json
import os
import pathlib
import signal
import subprocess
import threading
import time

import pytest

from conftest import BINARY, PATIENCE

# A step takes so long, so that a stream outlives what happens to it.
WORKER = ["--", "--hash-step-us", "2000", "--max-model-len", "512"]


class Machine:
    def __init__(self, root):
        self.home, self.root, self.worker = root / "store", root, WORKER
        (root / "hash").touch()
        self.environment = dict(os.environ, SCONCE_HOME=str(self.home), XDG_RUNTIME_DIR=str(root))
        self.environment.pop("SCONCE_SERVER", None)
        for name, number in [("alpha", 1), ("alpha", 2), ("beta", 1)]:
            file = root / f"{name}{number}.gguf"
            file.write_text(f"GGUF {name} {number}")
            self.run("import", str(file), "--name", name)
        for manifest in (self.home / "models").glob("*.json"):
            text = json.loads(manifest.read_text())
            manifest.write_text(json.dumps(dict(text, model="hash")))
        self.run("alias", "set", "alpha:prod", "alpha@1")

    def run(self, *words, status=0, stderr=False):
        done = subprocess.run(
            [os.path.abspath(BINARY), *words],
            capture_output=True, text=True, env=self.environment, cwd=self.root, timeout=PATIENCE,
        )
        log = "" if done.returncode == status else self.logs()
        assert done.returncode == status, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}\n{log}"
        return done.stderr if stderr else done.stdout

    def logs(self):
        logs = (self.home / "run" / "servers").glob("*.log")
        return "\n".join(log.read_text()[-6000:] for log in logs)

    def json(self, *words):
        return json.loads(self.run(*words, "--output", "json"))

    def up(self, *words):
        self.run("up", "-d", *words, "--port", "0", "--no-auth", *self.worker)
        [server] = self.json("ps")
        return server

    def replicas(self, version=None):
        found = self.json("status")["replicas"]
        return [it for it in found if it["state"] == "ready" and version in (None, it["version"])]


@pytest.fixture
def machine(tmp_path_factory):
    machine = Machine(tmp_path_factory.mktemp("fleet"))
    yield machine
    machine.run("stop", "--all", "--timeout", "20")


def complete(url, model, max_tokens=20):
    """Streams a completion; the version that answered, or what went wrong."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE)
    body = json.dumps(dict(model=model, prompt="x y z", max_tokens=max_tokens, stream=True, ignore_eos=True))
    try:
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        text = reply.read()
    except OSError as error:
        return None, repr(error)
    finally:
        connection.close()
    if reply.status != 200:
        return None, f"{reply.status} {text[:300]}"
    if b"[DONE]" not in text:
        return None, f"cut: {text[-300:]}"
    return reply.headers.get("x-sconce-version"), None


class Load:
    """Clients that ask one after the other until the block ends."""

    def __init__(self, url, model, num_clients=4, max_tokens=20, more_each=0):
        self.url, self.model = url, model
        self.answers, self.failures = [], []
        self.ends = threading.Event()
        lengths = [max_tokens + index * more_each for index in range(num_clients)]
        self.threads = [threading.Thread(target=self.ask, args=[length]) for length in lengths]

    def ask(self, max_tokens):
        while not self.ends.is_set():
            version, failure = complete(self.url, self.model, max_tokens)
            if failure:
                self.failures.append(failure)
            else:
                self.answers.append(version)
            self.ends.wait(0.02)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        self.more(8)
        return self

    def more(self, count):
        """Waits for so many answers more."""
        wanted = len(self.answers) + count
        until(lambda: len(self.answers) >= wanted or self.failures)

    def __exit__(self, *_):
        self.ends.set()
        for thread in self.threads:
            thread.join()


def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


def is_alive(pid):
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def processes(server):
    return {it["kind"]: it["pid"] for it in server["processes"]}


def test_a_killed_launcher_is_replaced_without_a_failed_request(machine):
    server = machine.up("alpha:prod")
    before = processes(server)

    with Load(server["url"], "alpha:prod") as load:
        os.kill(server["pid"], signal.SIGKILL)
        until(lambda: not is_alive(server["pid"]))
        [orphan] = machine.json("ps")
        assert orphan["state"] == "orphaned"
        load.more(8)
        machine.run("restart", "alpha:prod")
        load.more(8)
        machine.run("restart", "alpha:prod")
        load.more(8)

    assert load.failures == []
    [after] = machine.json("ps")
    assert after["state"] == "running" and after["pid"] != server["pid"]
    assert after["url"] == server["url"] and processes(after) == before
    assert [it["adopted"] for it in machine.replicas()] == [True]
    # The one that was adopted is watched as if it were the launcher's own.
    os.kill(before["worker"], signal.SIGKILL)
    until(lambda: [it for it in machine.replicas() if it["pid"] != before["worker"]])


def test_orphans_can_be_stopped_and_started(machine):
    server = machine.up("alpha:prod")
    os.kill(server["pid"], signal.SIGKILL)
    until(lambda: machine.json("ps")[0]["state"] == "orphaned")
    machine.run("status", status=3)

    machine.run("stop", "alpha:prod")

    assert machine.json("ps") == []
    until(lambda: not any(is_alive(pid) for pid in processes(server).values()))
    # And up again, over an orphan, with the same command.
    server = machine.up("alpha:prod")
    os.kill(server["pid"], signal.SIGKILL)
    until(lambda: machine.json("ps")[0]["state"] == "orphaned")
    assert processes(machine.up("alpha:prod")) == processes(server)


def test_a_frozen_worker_is_killed_and_another_takes_its_place(machine):
    server = machine.up("alpha:prod")
    worker = processes(server)["worker"]

    os.kill(worker, signal.SIGSTOP)

    until(lambda: not is_alive(worker))
    until(lambda: machine.replicas())
    assert complete(server["url"], "alpha:prod") == ("alpha@1", None)


def test_a_worker_that_is_told_to_end_by_hand_fails_no_request(machine):
    server = machine.up("alpha:prod")

    with Load(server["url"], "alpha:prod", num_clients=8) as load:
        # Had it died so often within a minute, its version would have failed.
        for _ in range(4):
            [worker] = machine.replicas()
            os.kill(worker["pid"], signal.SIGTERM)
            until(lambda: [it for it in machine.replicas() if it["pid"] != worker["pid"]])
            load.more(8)

    assert load.failures == []
    assert "the launcher did not tell it to" in machine.logs() and "died" not in machine.logs()


def test_a_worker_of_a_launcher_before_can_be_told_to_end_too(machine):
    server = machine.up("alpha:prod", "--replicas", "4")
    before = {it["pid"] for it in machine.replicas()}
    os.kill(server["pid"], signal.SIGKILL)
    until(lambda: not is_alive(server["pid"]))
    machine.run("restart", "alpha:prod")
    assert {it["pid"] for it in machine.replicas() if it["adopted"]} == before

    # Had they died, their version would have failed: nobody here is told their exit status.
    for pid in before:
        os.kill(pid, signal.SIGTERM)
    until(lambda: len(machine.replicas()) == 4 and not before & {it["pid"] for it in machine.replicas()})

    [model] = [it for it in machine.json("status")["models"] if it["version"] == "alpha@1"]
    assert model["state"] == "ready"
    log = machine.run("logs", "alpha:prod", "-n", "1000")
    assert log.count("the launcher did not tell it to") == 4 and "died" not in log


def test_what_waits_in_a_worker_that_is_killed_goes_to_the_next_one(machine):
    machine.worker = [*WORKER, "--max-num-seqs", "1"]
    server = machine.up("alpha:prod")
    before = processes(server)["worker"]

    with Load(server["url"], "alpha:prod", num_clients=8) as load:
        os.kill(before, signal.SIGKILL)
        until(lambda: [it for it in machine.replicas() if it["pid"] != before])
        load.more(16)

    # Only what had begun to be answered is lost: one sequence runs at once.
    assert len(load.failures) <= 1
    assert all("worker_lost" in failure for failure in load.failures)


def test_versions_are_swapped_under_load_and_back(machine):
    server = machine.up("alpha:prod")

    with Load(server["url"], "alpha:prod") as load:
        assert "alpha@2" in machine.run("promote", "alpha@2", "--name", "alpha:prod", "--reason", "why not")
        until(lambda: load.failures or load.answers[-4:].count("alpha@2") == 4)
        until(lambda: load.failures or not machine.replicas("alpha@1"))
        machine.run("rollback", "alpha:prod")
        until(lambda: load.failures or load.answers[-4:].count("alpha@1") == 4)

    assert load.failures == []
    back, there = machine.json("history", "alpha:prod")[:2]
    assert (back["action"], back["to"]) == ("rollback", "alpha@1")
    assert (there["action"], there["from"], there["to"]) == ("promote", "alpha@1", "alpha@2")
    assert there["why"] == "why not" and there["who"]
    machine.run("promote", "alpha@7", "--name", "alpha:prod", status=3)
    machine.run("promote", "alpha@1", "--name", "alpha:prod", status=4)


def test_a_promotion_outlives_the_launcher_and_moves_the_alias(machine):
    server = machine.up("alpha:prod")
    machine.run("promote", "alpha@2", "--name", "alpha:prod")
    until(lambda: machine.json("show", "alpha:prod")["id"] == "alpha@2")
    until(lambda: not machine.replicas("alpha@1"))

    os.kill(server["pid"], signal.SIGKILL)
    until(lambda: machine.json("ps")[0]["state"] == "orphaned")
    machine.run("restart", "alpha:prod")

    assert complete(server["url"], "alpha:prod") == ("alpha@2", None)
    assert [it["adopted"] for it in machine.replicas("alpha@2")] == [True]
    assert machine.json("history")[0]["action"] == "promote"


def test_golden_prompts_decide(machine, tmp_path):
    server = machine.up("alpha:prod")
    golden = tmp_path / "golden.jsonl"
    golden.write_text('{"prompt": "a", "max_tokens": 2, "equals": "what no hash says"}\n')

    machine.run("promote", "alpha@2", "--name", "alpha:prod", "--golden", str(golden), status=1)
    assert complete(server["url"], "alpha:prod") == ("alpha@1", None)
    until(lambda: not machine.replicas("alpha@2"))

    golden.write_text('{"prompt": "a", "max_tokens": 2, "regex": "(?s).*"}\n')
    machine.run("promote", "alpha@2", "--name", "alpha:prod", "--golden", str(golden))
    assert complete(server["url"], "alpha:prod") == ("alpha@2", None)
    golden.write_text('{"prompt": "a"}\n')
    machine.run("promote", "alpha@1", "--name", "alpha:prod", "--golden", str(golden), status=2)


def test_nobody_asks_and_somebody_does(machine):
    server = machine.up("alpha:prod", "--min", "0", "--max", "2")
    assert machine.replicas() == []

    # The first request waits for the first worker.
    assert complete(server["url"], "alpha:prod") == ("alpha@1", None)
    assert len(machine.replicas("alpha@1")) == 1
    assert "0 to 3 workers" in machine.run("scale", "alpha:prod", "--min", "0", "--max", "3")
    machine.run("scale", "alpha:prod", "--min", "2")
    until(lambda: len(machine.replicas("alpha@1")) == 2)
    # A version that is not a name's own is there for those who pin it.
    machine.run("start", "alpha@2")
    assert complete(server["url"], "alpha@2") == ("alpha@2", None)
    machine.run("unload", "alpha@2")
    until(lambda: not machine.replicas("alpha@2"))
    assert "--force" in machine.run("unload", "alpha@1", status=4, stderr=True)


def test_several_models_share_one_port(machine):
    server = machine.up("alpha:prod", "beta", "--replicas", "2")

    assert complete(server["url"], "alpha:prod") == ("alpha@1", None)
    assert complete(server["url"], "beta") == ("beta@1", None)
    assert len(machine.replicas("alpha@1")) == len(machine.replicas("beta@1")) == 2
    assert sorted(it["kind"] for it in server["processes"]) == ["router"] + 4 * ["worker"]
    # Another alias is another name, at once.
    machine.run("alias", "set", "beta:test", "beta@1")
    until(lambda: complete(server["url"], "beta:test") == ("beta@1", None))


def test_a_router_is_exchanged_under_load(machine):
    server = machine.up("alpha:prod")
    before = processes(server)

    with Load(server["url"], "alpha:prod") as load:
        machine.run("restart", "alpha:prod", "--router")
        load.more(8)
        until(lambda: not is_alive(before["router"]))
        load.more(8)

    assert load.failures == []
    [after] = machine.json("ps")
    assert after["url"] == server["url"]
    assert processes(after)["router"] != before["router"]
    assert processes(after)["worker"] == before["worker"]


def test_a_version_that_dies_again_and_again_is_given_up(machine):
    server = machine.up("alpha:prod")
    pid = None

    def dies_again():
        nonlocal pid
        status = machine.json("status")
        [model] = [it for it in status["models"] if it["version"] == "alpha@1"]
        if model["state"] == "failed":
            return True
        for replica in status["replicas"]:
            if replica["state"] == "ready" and replica["pid"] != pid:
                pid = replica["pid"]
                os.kill(pid, signal.SIGKILL)
        return False

    until(dies_again)
    [model] = [it for it in machine.json("status")["models"] if it["version"] == "alpha@1"]
    assert "died 3 times" in model["error"]
    # Whoever starts it by hand forgives it.
    machine.run("start", "alpha@1")
    assert complete(server["url"], "alpha:prod") == ("alpha@1", None)
