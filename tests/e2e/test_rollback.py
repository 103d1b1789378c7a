"""Versions that are no good lose their traffic by themselves, and the history says why."""

import concurrent.futures
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from safetensors.numpy import load_file, save_file

from test_fleet import Load, Machine, complete, until

NAME = "alpha:prod"
TINY_MODEL = pathlib.Path(__file__).parent.parent / "tiny_model.py"


@pytest.fixture
def machine(tmp_path_factory):
    machine = Machine(tmp_path_factory.mktemp("rollback"))
    yield machine
    machine.run("stop", "--all", "--timeout", "20")


def rolled_back(machine):
    """The history's entry of the rollback of a name, once there is one that is over."""
    found = []

    def is_over():
        found[:] = [it for it in machine.json("history", NAME) if it["action"] == "rollback" and it["result"]]
        return found

    until(is_over)
    return found[0]


def check(machine, server, why):
    """All is as before, and who rolled back, when and why is known."""
    back = rolled_back(machine)
    assert why in back["why"], back
    assert (back["who"], back["to"], back["result"]) == ("launcher", "alpha@1", "done")
    there = next(it for it in machine.json("history", NAME) if it["action"] in ("promote", "canary"))
    assert there["result"].startswith("rolled back: ") and there["who"] != "launcher"
    assert there["why"] == "a try" and there["time"] <= back["time"]
    assert [complete(server["url"], NAME) for _ in range(8)] == [("alpha@1", None)] * 8
    until(lambda: not machine.replicas("alpha@2"))


def test_a_version_that_can_not_be_loaded_is_refused(machine):
    server = machine.up(NAME)
    directory = machine.root / "broken"
    subprocess.run([sys.executable, TINY_MODEL, directory], check=True)
    file = directory / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.norm.weight"]
    save_file(tensors, file)
    machine.run("import", str(directory), "--name", "alpha")

    with Load(server["url"], NAME) as load:
        said = machine.run("promote", "alpha@3", "--name", NAME, status=1, stderr=True)

    assert "model.norm.weight" in said
    assert load.failures == [] and set(load.answers) == {"alpha@1"}
    assert machine.json("show", NAME)["id"] == "alpha@1"


def test_a_version_that_dies_again_and_again(machine):
    server = machine.up(NAME)
    canary(machine, "1%")
    killed = set()

    def has_died():
        for replica in machine.replicas("alpha@2"):
            if replica["pid"] not in killed:
                killed.add(replica["pid"])
                os.kill(replica["pid"], signal.SIGKILL)
        return not on_its_way(machine)

    until(has_died)
    check(machine, server, "alpha@2 failed: died 3 times")


def test_a_version_whose_requests_fail(machine):
    server = machine.up(NAME)
    canary(machine, "50%")

    # Long answers, so that many break off at once: what was begun is not begun again. Each client's are of another
    # length, or all would end together, and nothing might be begun at that moment.
    with Load(server["url"], NAME, num_clients=24, max_tokens=240, more_each=10) as load:
        until(lambda: load.answers.count("alpha@2") >= 20)
        [replica] = machine.replicas("alpha@2")
        os.kill(replica["pid"], signal.SIGKILL)
        until(lambda: not on_its_way(machine))

    assert any("worker_lost" in failure for failure in load.failures)
    check(machine, server, "requests failed")


def test_a_version_that_answers_late(machine):
    server = machine.up(NAME)
    canary(machine, "50%")
    [replica] = machine.replicas("alpha@2")

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        # Whatever it is asked, it stands still for a while, but never so long that it is taken for dead.
        for _ in range(30):
            if not on_its_way(machine):
                break
            os.kill(replica["pid"], signal.SIGSTOP)
            answers = [pool.submit(complete, server["url"], NAME) for _ in range(16)]
            time.sleep(1.2)
            os.kill(replica["pid"], signal.SIGCONT)
            assert [it.result()[1] for it in answers] == [None] * 16
            time.sleep(0.3)

    check(machine, server, "had their first token after more than")


def test_a_version_that_answers_golden_prompts_wrong(machine):
    server = machine.up(NAME)
    golden = machine.root / "golden.jsonl"
    golden.write_text(json.dumps({"prompt": "a", "max_tokens": 2, "equals": "what no hash says"}))

    with Load(server["url"], NAME) as load:
        machine.run("promote", "alpha@2", "--name", NAME, "--golden", str(golden), "--reason", "a try", status=1)

    assert load.failures == [] and set(load.answers) == {"alpha@1"}
    check(machine, server, "golden prompts")


def canary(machine, share):
    machine.run("promote", "alpha@2", "--name", NAME, "--canary", share, "--reason", "a try")
    until(lambda: machine.replicas("alpha@2"))


def on_its_way(machine):
    """Whether the rollout goes on."""
    [there] = [it for it in machine.json("history", NAME) if it["action"] == "canary"]
    return not there["result"]
