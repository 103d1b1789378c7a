"""The commands around the model store, as a user types them."""

import json
import os
import pathlib
import pty
import shutil
import subprocess

import pytest

from conftest import BINARY, MODEL
from test_fleet import machine, until  # noqa: F401

HOME = os.environ.get("SCONCE_HOME")


def sconce(*words, home=HOME):
    environment = dict(os.environ, SCONCE_HOME=str(home))
    return subprocess.run([BINARY, *words], capture_output=True, text=True, env=environment, timeout=120)


@pytest.fixture
def pulled():
    listed = json.loads(sconce("list", "--json").stdout) if HOME else []
    found = [manifest for manifest in listed if manifest["name"] == MODEL]
    if not found:
        pytest.skip("no model was pulled")
    return found[0]


def test_a_model_is_shown_with_its_hashes(pulled):
    shown = sconce("show", MODEL)
    assert shown.returncode == 0
    for file in pulled["files"]:
        assert file["sha256"] in shown.stdout
    assert json.loads(sconce("show", MODEL, "--json").stdout) == pulled

    absent = sconce("show", "nobody:1")
    assert absent.returncode == 3 and "nobody:1" in absent.stderr


def test_a_damaged_model_is_found(pulled, tmp_path):
    assert sconce("verify", MODEL).returncode == 0

    # A store of its own, whose files may be damaged.
    manifest = pathlib.Path(HOME, "models")
    (tmp_path / "models").mkdir()
    path = shutil.copy(pulled["model"], tmp_path / "model.gguf")
    with open(path, "r+b") as file:
        file.seek(1000)
        file.write(b"\xff\x00\xff\x00")
    for found in manifest.glob("*.json"):
        text = found.read_text()
        if json.loads(text)["name"] == MODEL:
            (tmp_path / "models" / found.name).write_text(text.replace(pulled["model"], str(path)))

    damaged = sconce("verify", "--json", home=tmp_path)
    assert damaged.returncode == 6 and "1 of 1" in damaged.stderr
    [model] = json.loads(damaged.stdout)
    assert model["name"] == MODEL and "sha256" in model["damage"]


def test_shells_can_complete_the_commands(tmp_path):
    script = sconce("completions", "bash")
    assert script.returncode == 0
    checked = subprocess.run(["bash", "-n"], input=script.stdout, text=True)
    assert checked.returncode == 0 and "verify" in script.stdout

    assert sconce("man", str(tmp_path / "man1")).returncode == 0
    assert (tmp_path / "man1" / "sconce-up.1").exists()


def test_what_is_in_memory_never_reaches_a_disk(server):
    """Prompts and keys are in these processes: none of them leaves a core dump."""
    children = pathlib.Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    pids = [server.process.pid, *map(int, children.read_text().split())]
    assert len(pids) >= 3
    for pid in pids:
        limits = pathlib.Path(f"/proc/{pid}/limits").read_text()
        [core] = [line for line in limits.splitlines() if line.startswith("Max core file size")]
        assert core.split()[4:6] == ["0", "0"], core


def test_results_have_a_form_for_programs(machine):
    assert machine.json("alias", "set", "alpha:next", "alpha@2") == {
        "alias": "alpha:next", "id": "alpha@2", "before": None
    }
    assert machine.json("alias", "rm", "alpha:next") == {"alias": "alpha:next", "id": "alpha@2"}
    assert [it["id"] for it in machine.json("rm", "beta@1")] == ["beta@1"]
    created = machine.json("keys", "create", "--name", "ci", "--admin")
    assert created["key"].startswith("sk-sconce-" + created["id"])
    [listed] = machine.json("keys", "list")
    assert (listed["id"], listed["scope"], listed["revoked"]) == (created["id"], "admin", None)
    assert machine.json("keys", "revoke", created["id"]) == {"revoked": created["id"]}


def test_a_start_has_a_form_for_programs(machine):
    started = json.loads(machine.run("up", "-d", "alpha:prod", "--port", "0", "--json", *machine.worker))
    [server] = machine.json("ps")
    assert {it: started[it] for it in ("name", "pid", "url", "models")} == {
        "name": "alpha:prod", "pid": server["pid"], "url": server["url"], "models": ["alpha:prod"]
    }
    assert started["auth"] == "new_key" and started["api_key"].startswith("sk-sconce-")
    assert {"load", "first_step", "total"} <= set(started["phases_ms"]["workers"]["alpha@1"])

    # The new launcher takes over what runs, makes no other key, and starts nothing.
    again = machine.json("restart", "alpha:prod")
    assert (again["url"], again["auth"]) == (started["url"], "known_key") and "api_key" not in again
    assert again["pid"] != started["pid"] and again["phases_ms"]["workers"] == {}
    told = machine.run("restart", "alpha:prod", "--router", "--json").splitlines()
    assert json.loads(told[-1])["done"]

    # What processes write reaches the log a little later.
    def log():
        return [json.loads(line) for line in machine.run("logs", "alpha:prod", "--json").splitlines()]

    until(lambda: {it["process"] for it in log()} >= {"launcher", "router", "alpha@1 #1 worker"})
    assert started["api_key"] not in str(log())
    assert machine.json("stop", "alpha:prod") == {"stopped": ["alpha:prod"]}


def test_an_answer_has_a_form_for_programs(machine):
    server = machine.up("alpha:prod")
    machine.environment["SCONCE_URL"] = server["url"]
    answer = machine.json("run", "alpha:prod", "x y z", "--max-tokens", "4")
    # The model may end whenever it likes.
    tokens = answer["usage"]["completion_tokens"]
    assert answer["finish_reason"] == "length" and tokens == 4 or answer["finish_reason"] == "stop" and tokens <= 4
    assert answer["model"] == "alpha:prod" and (answer["content"] or tokens < 4)
    assert not answer["content"] or 0 < answer["first_token_ms"] <= answer["total_ms"]


def test_errors_have_colors_in_a_terminal_alone(machine):
    def said(**more):
        leader, follower = pty.openpty()
        environment = {**machine.environment, "TERM": "xterm", **more}
        done = subprocess.run([os.path.abspath(BINARY), "show", "nobody:1"], stderr=follower, env=environment)
        os.close(follower)
        text = b""
        while part := read(leader):
            text += part
        os.close(leader)
        assert done.returncode == 3 and b"nobody:1" in text and b"hint:" in text
        return text

    def read(leader):
        try:
            return os.read(leader, 4096)
        except OSError:  # Nobody has the other end any more.
            return b""

    assert b"\x1b[" in said(NO_COLOR="")
    assert b"\x1b[" not in said(NO_COLOR="1")
    assert b"\x1b[" not in said(NO_COLOR="", TERM="dumb")
    assert "\x1b[" not in machine.run("show", "nobody:1", status=3, stderr=True)
