"""Launchers that start again as another binary or with other settings, under load: what runs otherwise
than it would be started now is exchanged, and no request fails."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess

import pytest

from conftest import BINARY, PATIENCE
from test_fleet import WORKER, Load, complete, is_alive, machine, processes, until  # noqa: F401


def kill_launcher(machine, server):
    os.kill(server["pid"], signal.SIGKILL)
    until(lambda: machine.json("ps")[0]["state"] == "orphaned")


def up_again(machine, *words):
    machine.run("up", "-d", *words)
    [server] = machine.json("ps")
    return server


def are_exchanged(machine, before):
    """Whether none of the workers of before is left, nor one that is outdated."""
    replicas = machine.json("status")["replicas"]
    pids = {it["pid"] for it in replicas}
    ready = [it for it in replicas if it["state"] == "ready" and not it["outdated"]]
    return not pids & before and len(ready) == len(before)


def test_workers_with_other_flags_are_exchanged_one_after_another(machine):
    flags = ["alpha:prod", "--replicas", "2"]
    server = machine.up(*flags)
    before = {it["pid"] for it in machine.replicas()}
    assert len(before) == 2

    with Load(server["url"], "alpha:prod") as load:
        kill_launcher(machine, server)
        after = up_again(machine, *flags, "--port", "0", "--no-auth", *WORKER, "--max-num-seqs", "7")
        until(lambda: load.failures or are_exchanged(machine, before))
        load.more(8)

    assert load.failures == []
    assert after["url"] == server["url"] and processes(after)["router"] == processes(server)["router"]
    until(lambda: not any(is_alive(pid) for pid in before))
    for replica in machine.replicas():
        command = pathlib.Path(f"/proc/{replica['pid']}/cmdline").read_bytes()
        assert b"--max-num-seqs\0" b"7" in command
    entry = machine.json("history")[0]
    assert (entry["action"], entry["name"], entry["result"]) == ("exchange", "alpha@1", "done: 2 workers")


def test_versions_that_were_started_since_get_the_new_flags_too(machine):
    server = machine.up("alpha:prod")
    machine.run("start", "alpha@2", "--replicas", "1")
    before = {it["pid"] for it in machine.replicas()}

    kill_launcher(machine, server)
    up_again(machine, "alpha:prod", "--port", "0", "--no-auth", *WORKER, "--max-num-seqs", "7")

    until(lambda: are_exchanged(machine, before))
    assert {it["version"] for it in machine.replicas()} == {"alpha@1", "alpha@2"}


def test_a_new_binary_takes_the_place_of_the_old_one(machine):
    binary = machine.root / "sconce"
    shutil.copy2(BINARY, binary)
    run = lambda *words: subprocess.run(  # noqa: E731
        [binary, *words], check=True, env=machine.environment, cwd=machine.root, timeout=PATIENCE,
        stdout=subprocess.DEVNULL,
    )
    run("up", "-d", "alpha:prod", "--port", "0", "--no-auth", *WORKER)
    [server] = machine.json("ps")
    before = processes(server)

    # As an upgrade does: another file of the name.
    shutil.copy(BINARY, machine.root / "new")
    os.replace(machine.root / "new", binary)
    os.kill(server["pid"], signal.SIGHUP)
    until(lambda: machine.json("ps")[0]["start"] != server["start"])
    until(lambda: machine.json("ps")[0]["url"])
    until(lambda: are_exchanged(machine, {before["worker"]}))

    assert complete(server["url"], "alpha:prod") == ("alpha@1", None)
    [after] = machine.json("ps")
    # The launcher is the same process, and none of what it runs.
    assert after["pid"] == server["pid"] and after["url"] == server["url"]
    assert os.readlink(f"/proc/{after['pid']}/exe") == str(binary)
    assert processes(after)["router"] != before["router"]
    # Children of before are waited for: they leave nothing.
    until(lambda: not pathlib.Path(f"/proc/{before['worker']}").exists())


def test_a_router_with_another_environment_is_exchanged(machine):
    server = machine.up("alpha:prod")
    before = processes(server)
    machine.environment["SCONCE_CORS_ORIGINS"] = "https://chat.example"

    machine.run("restart", "alpha:prod")
    until(lambda: not is_alive(before["router"]))

    assert complete(server["url"], "alpha:prod") == ("alpha@1", None)
    [after] = machine.json("ps")
    assert processes(after)["worker"] == before["worker"]
    assert after["url"] == server["url"]


@pytest.fixture
def service(machine):
    """A server as a service manager runs it, and what that is told."""
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(machine.root / "notify"))
    manager.settimeout(PATIENCE)
    process = subprocess.Popen(
        [os.path.abspath(BINARY), "up", "alpha:prod", "--service", "--port", "0", "--no-auth", *WORKER],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=machine.root,
        env=dict(machine.environment, NOTIFY_SOCKET=str(machine.root / "notify")),
    )
    process.told = lambda: manager.recv(4096).decode().splitlines()[0]
    yield process
    process.kill()
    process.wait()
    manager.close()


def test_a_service_is_exchanged_within_its_process(machine, service):
    assert service.told() == "READY=1"
    [server] = machine.json("ps")
    assert server["mode"] == "service" and server["pid"] == service.pid

    with Load(server["url"], "alpha:prod") as load:
        assert server["url"] in machine.run("restart", "alpha:prod")
        load.more(8)

    assert load.failures == []
    assert [service.told(), service.told()] == ["RELOADING=1", "READY=1"]
    [after] = machine.json("ps")
    assert after["pid"] == service.pid and processes(after) == processes(server)
    assert complete(after["url"], "alpha:prod") == ("alpha@1", None)
    machine.run("logs", "alpha:prod", status=1)
    machine.run("restart", "alpha:prod", "--all", status=4)
    machine.run("stop", "alpha:prod")
    assert service.told() == "STOPPING=1"
    assert service.wait(PATIENCE) == 0
