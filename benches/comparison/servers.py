"""The servers that are compared, as processes."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from dataclasses import dataclass

from . import machine
from .client import Refused, complete

# Streams at once, and the tokens that each may have in the cache. Both servers get a KV cache for
# as many tokens in all.
STREAMS = 32
STREAM_TOKENS = 1280
# What one long prompt needs; llama-server divides its cache between its slots for good, so that
# prompts longer than a slot go to a second process with one slot.
LONG_TOKENS = 8192


class Failed(Exception):
    """A server ended, or never answered."""


@dataclass(frozen=True)
class Contender:
    """A server program with a model file."""

    name: str
    binary: str
    model: str
    threads: int

    def start(self, slots=STREAMS):
        """Starts a process. With one slot, for long prompts; only llama-server tells them apart."""
        return Server(self, slots)


class Sconce(Contender):
    splits_cache = False

    def command(self, port, slots, state):
        return [
            self.binary, "up", self.model, "--port", str(port), "--threads", str(self.threads),
            "--no-auth", "--offline", "--database", f"{state}/keys.db", "--",
            # Random prompts end in loops, which drafts make several times as fast: that is another
            # figure, and its own bench's.
            "--speculation", "off",
            "--max-num-seqs", str(slots), "--num-blocks", str(STREAMS * STREAM_TOKENS // 16),
        ]


class LlamaServer(Contender):
    splits_cache = True

    def command(self, port, slots, state):
        context = LONG_TOKENS if slots == 1 else slots * STREAM_TOKENS
        # --cache-ram 0: copies of idle slots would cost every other workload time. A slot's own
        # prompt is still reused, and the slot with the longest common prefix is taken.
        return [
            self.binary, "-m", self.model, "-t", str(self.threads), "-tb", str(self.threads),
            "-np", str(slots), "-c", str(context), "--no-kv-unified", "--cache-ram", "0",
            "--port", str(port), "--no-webui",
        ]


class Server:
    """A running process. `seconds_to_token` is from its start until it had answered a token."""

    def __init__(self, contender, slots):
        self.name, self.model = contender.name, "none"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.state = tempfile.TemporaryDirectory()
        self.log = tempfile.TemporaryFile()
        command = contender.command(self.port, slots, self.state.name)
        begun = time.monotonic()
        self.process = subprocess.Popen(
            command, stdout=self.log, stderr=self.log, start_new_session=True,
            env=os.environ | {"XDG_RUNTIME_DIR": self.state.name},
        )
        try:
            self.seconds_to_token = self.first_token() - begun
        except BaseException:
            self.stop()
            raise

    def first_token(self):
        """When the first token came. What isn't up yet refuses, and is asked again at once."""
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            try:
                # Both answer this as soon as they listen.
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/models") as models:
                    self.model = json.load(models)["data"][0]["id"]
                return asyncio.run(complete(self, [1, 2, 3], 1)).times[0]
            except (OSError, LookupError, TypeError, Refused, asyncio.IncompleteReadError):
                if self.process.poll() is not None:
                    raise Failed(f"{self.name} ended:\n{self.output()}") from None
                time.sleep(0.002)
        raise Failed(f"{self.name} did not answer:\n{self.output()}")

    def output(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")[-3000:]

    def resident_mib(self):
        return machine.resident_mib(self.process.pid)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.log.close()
        self.state.cleanup()
