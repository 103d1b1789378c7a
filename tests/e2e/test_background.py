"""Servers in the background: started, listed, read, restarted and stopped as a user does."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import time
import urllib.request

import pytest

from conftest import BINARY, MODEL, PATIENCE

HOME = os.environ.get("SCONCE_HOME")


class Machine:
    def __init__(self, home, runtime):
        self.environment = dict(os.environ, SCONCE_HOME=str(home), XDG_RUNTIME_DIR=str(runtime))
        self.home = home

    def run(self, *words, status=0):
        done = subprocess.run(
            [BINARY, *words], capture_output=True, text=True, env=self.environment, timeout=PATIENCE
        )
        assert done.returncode == status, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def servers(self):
        return json.loads(self.run("ps", "--output", "json"))


@pytest.fixture
def machine(tmp_path_factory):
    home, runtime = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("run")
    machine = Machine(home / "store", runtime)
    listed = subprocess.run([BINARY, "list", "--json"], capture_output=True, text=True) if HOME else None
    found = [it["model"] for it in json.loads(listed.stdout) if it["name"] == MODEL] if listed else []
    if not found:
        pytest.skip("no model was pulled")
    machine.run("import", found[0], "--name", "tiny")
    yield machine
    machine.run("stop", "--all")


def is_live(url):
    try:
        with urllib.request.urlopen(url + "/live", timeout=PATIENCE) as reply:
            return reply.status == 200
    except OSError:
        return False


def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


def test_a_server_runs_in_the_background_until_it_is_stopped(machine):
    assert "no servers" in machine.run("ps")
    started = machine.run("serve", "-d", "tiny", "--port", "0", "--", "--max-num-seqs", "3")
    assert "ready in " in started and "sconce stop tiny" in started
    key = next(word for word in started.split() if word.startswith("sk-sconce-"))

    [server] = machine.servers()
    assert server["name"] == "tiny" and server["version"] == "tiny@1" and is_live(server["url"])
    assert "-d" not in server["args"] and server["args"][-2:] == ["--max-num-seqs", "3"]
    assert "already" in machine.run("up", "-d", "tiny", "--port", "0", status=4)
    assert "in use" in machine.run("rm", "tiny", status=4)
    log = machine.run("logs", "tiny", "-n", "1000")
    assert "worker | " in log and key not in log

    following = subprocess.Popen(
        [BINARY, "logs", "-f", "tiny"], stdout=subprocess.PIPE, text=True, env=machine.environment
    )
    assert machine.run("stop", "tiny") == "stopped tiny\n"
    # It ends with the server, and has its last words.
    assert "stopping" in following.communicate(timeout=PATIENCE)[0]
    assert machine.servers() == []
    assert not is_live(server["url"])
    machine.run("stop", "tiny", status=3)
    assert "stopping" in machine.run("logs", "tiny")


def test_a_container_whose_session_began_outside_of_it_has_a_server_too(machine):
    # The session of what runs there has no number within, as after `docker exec`.
    enter = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    if not shutil.which("unshare") or subprocess.run([*enter, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody make a container")
    script = 'awk "{print \\$6}" /proc/self/stat; "$0" up -d tiny --port 0 && "$0" stop tiny'
    done = subprocess.run(
        [*enter, "sh", "-c", script, BINARY], capture_output=True, text=True, env=machine.environment,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    session, *said = done.stdout.splitlines()
    assert session == "0" and any("ready in " in line for line in said) and said[-1] == "stopped tiny"


def test_a_restart_serves_what_the_alias_stands_for_now(machine):
    recipe = machine.home / "recipe.toml"
    recipe.write_text('base = "tiny@1"\ncontext_length = 512\n')
    machine.run("create", "tiny", "-f", str(recipe))
    machine.run("alias", "set", "tiny:prod", "tiny@1")
    machine.run("up", "-d", "tiny:prod", "--port", "0", "--no-auth")
    [before] = machine.servers()
    machine.run("alias", "set", "tiny:prod", "tiny@2")

    machine.run("restart", "tiny:prod")

    [after] = machine.servers()
    assert (before["version"], after["version"]) == ("tiny@1", "tiny@2")
    assert before["pid"] != after["pid"] and is_live(after["url"])
    with urllib.request.urlopen(after["url"] + "/v1/models", timeout=PATIENCE) as reply:
        assert json.load(reply)["data"][0]["max_model_len"] == 512


def test_a_server_that_was_killed_serves_on_and_nobody_else_is_signaled(machine):
    machine.run("up", "-d", "tiny", "--port", "0", "--no-auth")
    [server] = machine.servers()
    os.kill(server["pid"], signal.SIGKILL)
    until(lambda: machine.servers()[0]["state"] == "orphaned")
    # Its router and worker go on, though nobody reads their log any more, until they are told.
    assert is_live(server["url"])
    assert "in use" in machine.run("rm", "tiny", status=4)
    machine.run("stop", "tiny")
    assert not is_live(server["url"])
    assert machine.servers() == []
    machine.run("stop", "tiny", status=3)

    # A record whose number is now another process's, as after a reboot: the lock says that it lives.
    machine.run("up", "-d", "tiny", "--port", "0", "--no-auth")
    [record] = pathlib.Path(machine.home, "run", "servers").glob("*.json")
    text = record.read_text()
    stranger = subprocess.Popen(["sleep", "1000"])
    try:
        record.write_text(json.dumps(dict(json.loads(text), pid=stranger.pid)))
        assert "nothing was signaled" in machine.run("stop", "tiny", status=4)
        assert stranger.poll() is None
    finally:
        record.write_text(text)
        stranger.kill()
        stranger.wait()


def test_a_server_that_can_not_start_says_why(machine):
    said = machine.run("up", "-d", "tiny", "--port", "0", "--context", "10000000", status=7)
    assert "ended before it was ready" in said and "8192 positions" in said
    assert machine.servers() == []
