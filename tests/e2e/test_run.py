"""`sconce run` in a terminal and in a pipe, as a user types it."""

import fcntl
import json
import os
import pathlib
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

import pytest

from conftest import BINARY, MODEL, PATIENCE

HOME = os.environ.get("SCONCE_HOME")


class Terminal:
    """The command on a terminal of its own."""

    def __init__(self, *words, **variables):
        self.master, slave = pty.openpty()
        # Wide enough that no line is broken.
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 400, 0, 0))
        environment = dict(os.environ, TERM="xterm", COLUMNS="200", **variables)
        self.process = subprocess.Popen(
            [BINARY, "run", *words],
            stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True,
        )
        os.close(slave)
        self.text = ""

    def read_until(self, pattern):
        """What was shown up to the first match, which is taken away."""
        deadline = time.monotonic() + PATIENCE
        while not (match := re.search(pattern, self.text)):
            left = deadline - time.monotonic()
            ready = left > 0 and select.select([self.master], [], [], left)[0]
            assert ready, f"{pattern!r} was not shown in: {self.text!r}"
            try:
                data = os.read(self.master, 65536)
            except OSError:
                data = b""
            assert data, f"the terminal was left, without {pattern!r} in: {self.text!r}"
            # What moves the cursor is no text.
            self.text += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data.decode(errors="replace"))
        shown, self.text = self.text[: match.end()], self.text[match.end() :]
        return shown

    def type(self, text):
        """Types a line, and returns what is shown until the next prompt."""
        os.write(self.master, text.encode() + b"\r")
        # The line is echoed after the prompt that was there.
        self.read_until(re.escape(text.split("\r")[-1][-20:]))
        return self.read_until(r"\n\r*>>> ")

    def end(self):
        try:
            return self.process.wait(PATIENCE)
        finally:
            if self.process.poll() is None:
                self.process.kill()
            os.close(self.master)


@pytest.fixture
def reach(server, tmp_path):
    """Words and variables to chat with the shared server, from a store of its own."""
    variables = {"SCONCE_API_KEY": server.key, "SCONCE_HOME": str(tmp_path)}
    return [server.model, "--url", server.url], variables


def run(words, variables, **options):
    return subprocess.run(
        [BINARY, "run", *words],
        capture_output=True, text=True, env=dict(os.environ, **variables), timeout=PATIENCE, **options,
    )


def test_a_chat_goes_on_until_it_is_left(reach, tmp_path):
    words, variables = reach
    terminal = Terminal(*words, "--max-tokens", "12", "--temperature", "0", **variables)
    terminal.read_until(">>> ")

    answer = terminal.type("What is the capital of France?")
    assert len(answer.strip()) > len(">>> ")
    assert "messages    2" in terminal.type("/show")
    terminal.type("/set system Be brief.")
    terminal.type("/set parameter seed 7")
    shown = terminal.type("/show")
    assert "Be brief." in shown and "seed  7" in shown and "temperature  0.0" in shown

    terminal.type("/set verbose")
    # Several lines are one message.
    os.write(terminal.master, b'"""one\r')
    terminal.read_until(r"\.\.\. ")
    assert "tokens/s" in terminal.type('two"""')
    assert "messages    4" in terminal.type("/show")
    assert "there is no /nonsense" in terminal.type("/nonsense")

    path = tmp_path / "chat.json"
    assert "saved 5 messages" in terminal.type(f"/save {path}")
    saved = json.loads(path.read_text())
    assert [message["role"] for message in saved] == ["system"] + ["user", "assistant"] * 2
    assert saved[3]["content"] == "one\ntwo"
    terminal.type("/clear")
    assert "messages    0" in terminal.type("/show")
    assert "loaded 5 messages" in terminal.type(f"/load {path}")

    os.write(terminal.master, b"/bye\r")
    assert terminal.end() == 0
    assert "What is the capital of France?" in (tmp_path / "run_history").read_text()


def test_an_interrupt_stops_the_answer_and_not_the_chat(reach, server):
    words, variables = reach
    terminal = Terminal(*words, "--max-tokens", "4000", "--temperature", "0", **variables)
    terminal.read_until(">>> ")
    terminal.type("/set ignore_eos true")

    os.write(terminal.master, b"Count.\r")
    server.wait_for_metric("sconce_num_requests_running", 1)
    terminal.read_until(r"Count\.\r?\n[^\n]*\w")
    terminal.process.send_signal(signal.SIGINT)
    terminal.read_until(r"\n\r*>>> ")
    server.wait_for_metric("sconce_num_requests_running", 0)
    assert "messages    2" in terminal.type("/show")

    # At the prompt, it gives up the line.
    os.write(terminal.master, b"half a line\x03")
    terminal.read_until(r"Ctrl-D ends the chat")
    terminal.read_until(">>> ")
    os.write(terminal.master, b"\x04")
    assert terminal.end() == 0


def test_prompts_are_answered_in_pipes(reach):
    words, variables = reach
    options = ["--max-tokens", "8", "--temperature", "0"]

    typed = run([*words, *options, "Say", "hello."], variables, stdin=subprocess.DEVNULL)
    piped = run([*words, *options], variables, input="Say hello.\n")
    assert typed.returncode == piped.returncode == 0, typed.stderr + piped.stderr
    assert typed.stdout == piped.stdout and typed.stdout.strip() and "\x1b" not in typed.stdout

    both = run([*words, *options, "--verbose", "Summarize."], variables, input="A text.\n")
    assert both.returncode == 0 and "tokens/s" in both.stderr and "tokens/s" not in both.stdout

    nothing = run(words, variables, input="")
    assert nothing.returncode == 1 and "nothing to answer" in nothing.stderr
    unknown = run(["nobody", *words[1:], "hi"], variables, stdin=subprocess.DEVNULL)
    assert unknown.returncode == 1 and words[0] in unknown.stderr
    keyless = run([*words, "hi"], dict(variables, SCONCE_API_KEY=""), stdin=subprocess.DEVNULL)
    assert keyless.returncode == 1 and "SCONCE_API_KEY" in keyless.stderr


def processes_of(folder):
    """Processes whose command line names the folder."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(folder).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(HOME is None, reason="no store")
def test_a_server_of_its_own_ends_with_it(tmp_path):
    variables = {"TMPDIR": str(tmp_path)}
    words = [MODEL, "--offline", "--max-tokens", "4", "Hi."]
    done = run(words, variables, stdin=subprocess.DEVNULL)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr
    assert processes_of(tmp_path) == [] and not list(tmp_path.iterdir())

    # One that is told to end takes it along too.
    terminal = Terminal(MODEL, "--offline", **variables)
    terminal.read_until(">>> ")
    assert processes_of(tmp_path)
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.end() == 143
    assert processes_of(tmp_path) == []
