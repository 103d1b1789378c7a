"""`sconce up` in a terminal: commands reach it, and the terminal shows how it is."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading

import pytest

from conftest import BINARY, PATIENCE, Output
from test_fleet import WORKER, Load, complete, machine, until  # noqa: F401

UP = [os.path.abspath(BINARY), "up", "alpha:prod", "--port", "0", "--no-auth"]


@pytest.fixture
def start(machine):
    """Starts servers in the foreground."""
    processes = []

    def start(*words):
        process = subprocess.Popen(
            [*UP, *words, *WORKER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=machine.environment, cwd=machine.root,
        )
        processes.append(process)
        output, process.log = Output(process), []
        read = lambda: process.log.extend(process.stderr)  # noqa: E731
        threading.Thread(target=read, daemon=True).start()
        output.find(r"ready in \d+ ms")
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_commands_reach_a_server_in_the_foreground(machine, start):
    process = start()
    [server] = machine.json("ps")
    assert (server["name"], server["mode"], server["pid"]) == ("alpha:prod", "foreground", process.pid)
    assert "(foreground)" in machine.run("ps")

    with Load(server["url"], "alpha:prod") as load:
        machine.run("promote", "alpha@2", "--name", "alpha:prod")
        machine.run("scale", "alpha:prod", "--min", "2", "--max", "2")
        until(lambda: load.failures or len(machine.replicas("alpha@2")) == 2)
        machine.run("rollback", "alpha:prod")
        machine.run("restart", "alpha:prod", "--router")
        load.more(8)

    assert load.failures == []
    assert complete(server["url"], "alpha:prod") == ("alpha@1", None)
    # What only its own terminal can do is refused, and nothing happens to it.
    machine.run("restart", "alpha:prod", status=4)
    machine.run("logs", "alpha:prod", status=1)
    machine.run("up", "-d", "alpha:prod", "--port", "0", "--no-auth", *WORKER, status=4)
    assert process.poll() is None
    machine.run("stop", "alpha:prod")
    assert process.wait(PATIENCE) == 0
    assert machine.json("ps") == []
    # No terminal, no view.
    assert not any("\x1b[" in line and "tok/s" in line for line in process.log)


def test_servers_of_one_model_have_names_of_their_own(machine, start):
    first, second = start(), start()

    names = [server["name"] for server in machine.json("ps")]
    assert names == ["alpha:prod", "alpha:prod#2"]
    machine.run("status", status=2)
    machine.run("status", "--server", "alpha:prod#2")
    machine.run("stop", "alpha:prod#2")
    assert second.wait(PATIENCE) == 0 and first.poll() is None
    first.send_signal(signal.SIGKILL)
    first.wait()
    until(lambda: machine.json("ps") == [])


class Terminal:
    """A process in a terminal of a width."""

    def __init__(self, machine, columns, *words, **variables):
        self.text, self.lock = "", threading.Lock()
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
        environment = {k: v for k, v in machine.environment.items() if k != "NO_COLOR"}
        self.process = subprocess.Popen(
            [*UP, *words, *WORKER], stdin=theirs, stdout=theirs, stderr=theirs, cwd=machine.root,
            env={**environment, "TERM": "xterm-256color", **variables}, start_new_session=True,
        )
        os.close(theirs)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        while True:
            try:
                data = os.read(self.ours, 65536)
            except OSError:
                return
            if not data:
                return
            with self.lock:
                self.text += data.decode(errors="replace")

    def has(self, pattern):
        with self.lock:
            return re.search(pattern, self.text)

    def until(self, pattern):
        until(lambda: self.has(pattern) or self.process.poll() is not None)
        assert self.has(pattern), f"{pattern!r} is not in {self.text!r}"

    def end(self):
        self.process.terminate()
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            os.close(self.ours)


@pytest.mark.parametrize("columns", [100, 30])
def test_a_terminal_has_a_live_view_below_the_log(machine, columns):
    terminal = Terminal(machine, columns)
    try:
        terminal.until(r"alpha@1 ready  1/1")
        [server] = machine.json("ps")
        with Load(server["url"], "alpha:prod"):
            if columns > 60:
                terminal.until(r"[1-9]\d* running")
                terminal.until(r"[1-9]\d* tok/s")
        machine.run("promote", "alpha@2", "--name", "alpha:prod")
        terminal.until(r"alpha@2 ready")
        terminal.until(r"ago promote al")
        # Log lines are whole, wherever the view was.
        assert terminal.has(r"alpha@2 #\d+ worker \| .*model loaded") or terminal.has(r"worker \| ")
        lines = re.split(r"\r\n|\r|\x1b\[\d*[A-GJK]", terminal.text)
        # The view's lines are filled up to the width, so that each begins where one before it ended.
        plain = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", it) for it in lines]
        begins = [it.start() for line in plain for it in re.finditer(r"  alpha@\d [a-z]+  \d/\d ", line)]
        assert begins and all(begin % columns == 0 for begin in begins)
    finally:
        assert terminal.end() == 0


@pytest.mark.parametrize("how", ["--no-live", "NO_COLOR"])
def test_a_terminal_can_do_without(machine, how):
    words, variables = (["--no-live"], {}) if how == "--no-live" else ([], {"NO_COLOR": "1"})
    terminal = Terminal(machine, 100, *words, **variables)
    try:
        terminal.until(r"ready in \d+ ms")
        machine.run("promote", "alpha@2", "--name", "alpha:prod")
    finally:
        assert terminal.end() == 0
    assert not terminal.has(r"tok/s|\x1b\[\d*A")
