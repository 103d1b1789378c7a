"""Every block of the README and of docs/ does what it says: commands run, programs end well, data is read.

A page is read from top to bottom by somebody with a home of their own, in which the model has been
pulled. Servers are started where the page starts one, or else when something first asks for one.
What can't be run here is in `ELSEWHERE`, and what has another name here in `MEANT`; what is in
neither and fails is wrong on its page, and so is what is in one of them and on no page.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile

import pytest

from conftest import BINARY, MODEL, PATIENCE, Output
from test_hub import LATER, STAND_IN, Hub
from test_run import Terminal

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = {"sh", "python", "rust", "json", "jsonl"}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
# What stands in programs for a server.
URL, KEY = "http://127.0.0.1:8000", "sk-sconce-…"

BUILDS = "builds what these tests were given built"
TESTS = "runs these tests, or others as long"
GPU = "needs an NVIDIA GPU"
SHARED = "needs PostgreSQL and a bucket: test_batch.py has both"
ELSEWHERE = {
    "cargo install --locked --path .": BUILDS,
    "cargo build --release": BUILDS,
    "cargo build --release --features cuda": BUILDS,
    "CUDA_HOME=/usr/local/cuda cargo build --release --features cuda": BUILDS,
    "CUDA_HOME=$(kernels/cuda/toolkit.sh) cargo build --release --features cuda": BUILDS,
    "make test": TESTS,
    "make check": TESTS,
    "make bench": "20 minutes of a machine that does nothing else",
    "tests/run.sh soak": TESTS,
    "tests/run.sh gpu": TESTS,
    "tests/run.sh open-webui": TESTS,
    "python tests/batch_soak.py --database postgres": TESTS,
    "tests/sanitize.sh": TESTS,
    "tests/miri.sh": TESTS,
    "tests/neon.sh": TESTS,
    "tests/cuda/build.sh target/stand-in": TESTS,
    "tests/cuda/build.sh target/stand-in --test": TESTS,
    "LD_LIBRARY_PATH=target/stand-in cargo test": TESTS,
    "tests/gpu/pack.sh": BUILDS,
    "tests/gpu/check.sh": GPU,
    "python benches/embeddings.py": "needs PyTorch, and minutes",
    "python benches/structured.py": "takes minutes",
    "python benches/agreement.py": "needs other clients, and minutes",
    "sconce up smollm2:135m -- --device cuda:1": GPU,
    "sconce batch cancel batch_0193": "those of a page are too short to be cancelled: test_batch.py has one",
    "export SCONCE_DATABASE=postgres://sconce@db.example/sconce PGPASSFILE=/run/secrets/pgpass": SHARED,
    "sconce router --launcher unix:/run/sconce/control.sock --pepper /run/secrets/sconce-pepper --files s3://bucket/sconce": SHARED,
}

# What a page has, and what is run instead: paths of the system, hosts of the network, ports that
# others may have, and how long and how fast this machine need not be.
MEANT = {
    "/usr/local/share": "$HOME/share",
    "/run/sconce/": "$XDG_RUNTIME_DIR/",
    "--listen 127.0.0.1:8000": "--listen 127.0.0.1:0",
    "https://api.example/v1 --model m": "$URL --model smollm2:135m",
    "--duration 60s": "--duration 2s",
    "-n 200": "-n 40",
    "ttft.p99<800ms": "ttft.p99<800s",
    '"Why is the sky blue?"': '"Why is the sky blue?" --max-tokens 16',
    '"Summarize this."': '"Summarize this." --max-tokens 16',
    "batch_0193": "$(sconce batch list | grep -o 'batch_[0-9a-z-]*' | head -1)",
    # The first that this store has.
    "--generation 12": "--generation $(basename $(ls -v ~/.local/share/sconce/generations | head -1) .lock)",
}

# So small a model may go on until its context ends, and threads wait for each other in loops, which a
# busy machine pays for.
SHORT = """--threads 1 --override-generation-config '{"max_tokens": 32}'"""


def commands(block):
    """The commands of a block, without the comments behind them."""
    lines = block.replace("\\\n", " ").splitlines()
    lines = (re.sub(r"(^|\s+)#\s.*", "", line).strip() for line in lines)
    return [line for line in lines if line]


def blocks(page):
    return [match.groups() for match in BLOCK.finditer(page.read_text())]


def everything():
    return [line for page in PAGES for kind, text in blocks(page) if kind == "sh" for line in commands(text)]


def copy(source, target):
    """The same file under another name, or with the same contents."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


class Reader:
    """Somebody who types what a page says, in a home of their own."""

    def __init__(self, hub):
        # Short, as the names of sockets have to be.
        self.folder = tempfile.TemporaryDirectory(prefix="sconce-doc-")
        self.root = pathlib.Path(self.folder.name)
        self.home = self.root / "home"
        self.store = self.home / ".local/share/sconce"
        self.cwd = self.root / "cwd"
        for path in [self.store, self.cwd, self.root / "bin", self.root / "run", self.home / "share"]:
            path.mkdir(parents=True, mode=0o700)
        (self.home / ".local/share/bash-completion/completions").mkdir(parents=True)
        (self.root / "bin/sconce").symlink_to(os.path.abspath(BINARY))
        # An error of HTTP is a failure of curl.
        (self.home / ".curlrc").write_text("fail\nsilent\nshow-error\n")
        line = {"custom_id": "a", "method": "POST", "url": "/v1/completions",
                "body": {"model": MODEL, "prompt": "Hi", "max_tokens": 4}}
        (self.cwd / "requests.jsonl").write_text(json.dumps(line) + "\n")
        (self.cwd / "notes.txt").write_text("The moon is far away. The boat is small.\n")
        kept = ("LANG", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "SCONCE_CUDA_LIBRARIES")
        self.environment = {name: os.environ[name] for name in kept if name in os.environ}
        self.environment.update(
            PATH=f"{self.root / 'bin'}:{os.environ['PATH']}",
            HOME=str(self.home),
            XDG_RUNTIME_DIR=str(self.root / "run"),
            HF_ENDPOINT=hub.url,
            SCONCE_PORT="0",
        )
        self.hub = hub
        self.servers = []
        self.key = None

    def take_model(self, store):
        """The model, as if it had been pulled here."""
        (self.store / "models").mkdir()
        (self.store / "blobs").mkdir()
        shutil.copy(store / "models.lock", self.store)
        for manifest in (store / "models").glob("*.json"):
            told = json.loads(manifest.read_text())
            if told["name"] != MODEL:
                continue
            for file in told["files"]:
                path = self.store / "blobs" / pathlib.Path(file["path"]).name
                copy(file["path"], path)
                told["model"] = file["path"] = str(path)
            (self.store / "models" / manifest.name).write_text(json.dumps(told))
            copy(told["model"], self.cwd / "model.gguf")

    def forget_weights(self):
        """A model that answers at once, with words that mean nothing."""
        (self.cwd / "hash").touch()
        for manifest in (self.store / "models").glob("*.json"):
            manifest.write_text(json.dumps(dict(json.loads(manifest.read_text()), model="hash")))

    def read(self, page):
        for kind, text in blocks(page):
            if kind == "sh":
                for command in commands(text):
                    if command not in ELSEWHERE:
                        self.type(command)
            elif kind == "python":
                self.run_python(text)
            elif kind == "json":
                json.loads(text)
            elif kind == "jsonl":
                for line in text.splitlines():
                    json.loads(line)
            elif kind == "rust":
                compiled = (ROOT / "clients/rust/src/lib.rs").read_text()
                for line in text.splitlines():
                    assert f"//! {line}\n" in compiled, f"{line!r} is in no test of the crate"

    def type(self, command):
        self.prepare(command)
        for there, here in MEANT.items():
            command = command.replace(there, here)
        if re.match(r"(\w+=\S+ )*sconce (up|serve|worker|router) (?!-d)", command):
            return self.serve(command)
        if re.search(r"\$URL|\bcurl |^sconce (bench|batch) ", command):
            self.reach()
        if re.fullmatch(r"sconce run \S+", command):
            return self.chat(command)
        state = self.root / "state"
        script = f"set -eo pipefail -a\n. {state}\n{command}\nexport -p > {state}\n"
        state.touch()
        done = subprocess.run(
            ["bash", "-c", script],
            capture_output=True, text=True, env=self.environment, cwd=self.cwd, timeout=PATIENCE,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.logs()}"

    def prepare(self, command):
        """Has what a command takes for granted."""
        if "--update" in command:
            self.hub.tell("move_to", LATER)
            self.hub.put("README.txt", "moved", repo="Qwen/Qwen3-0.6B")
            self.hub.put("added.json", "{}", repo="Qwen/Qwen3-0.6B")
        if "models.lock" in command:
            shutil.copy(self.store / "models.lock", self.cwd)
        if "old.json" in command and (self.cwd / "new.json").exists():
            shutil.copy(self.cwd / "new.json", self.cwd / "old.json")

    def serve(self, command):
        """Starts what goes on until the page ends, and waits until it can be used."""
        command = re.sub(r"\bsconce (?=up|serve|worker|router)", "exec sconce ", command, count=1)
        if "sconce up" in command:
            command += f" {SHORT}" if " -- " in command else f" -- {SHORT}"
        process = subprocess.Popen(
            ["bash", "-c", command],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.environment,
            cwd=self.cwd, start_new_session=True, stdin=subprocess.DEVNULL,
        )
        output = Output(process)
        self.servers.append((command, process, output))
        if "sconce worker" in command:
            output.find(r"ready \{")
            return
        self.environment["URL"] = output.find(r"(http://127\.0\.0\.1:\d+)").group(1)
        self.environment["SCONCE_URL"] = self.environment["URL"]
        if "sconce router" in command:
            output.find("worker ready")
            return
        output.find(r"ready in \d+ ms")
        keys = re.findall(r"sk-sconce-[\w-]+", "\n".join(output.lines))
        self.key = keys[0] if keys else self.key
        self.environment["SCONCE_API_KEY"] = self.key or ""

    def reach(self):
        if "URL" not in self.environment:
            self.serve("sconce up smollm2:135m")

    def chat(self, command):
        variables = {name: self.environment[name] for name in ("HOME", "XDG_RUNTIME_DIR", "SCONCE_PORT")}
        variables["SCONCE_HOME"] = str(self.store)
        terminal = Terminal(*command.split()[2:], **variables)
        terminal.read_until(">>> ")
        os.write(terminal.master, b"/bye\r")
        assert terminal.end() == 0

    def run_python(self, text):
        self.reach()
        program = text.replace(URL, self.environment["URL"]).replace(KEY, self.key)
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True, text=True, env=self.environment, cwd=self.cwd, timeout=PATIENCE,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}\n{self.logs()}"

    def logs(self):
        return "\n".join("\n".join([command, *output.lines[-40:]]) for command, _, output in self.servers)

    def leave(self):
        for _, process, _ in reversed(self.servers):
            process.send_signal(signal.SIGTERM)
        for _, process, _ in reversed(self.servers):
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        subprocess.run(
            [BINARY, "stop", "--all"], env=self.environment, capture_output=True, timeout=PATIENCE
        )
        self.folder.cleanup()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    subprocess.run([sys.executable, ROOT / "tests/tiny_model.py", path], check=True, timeout=PATIENCE)
    return path


@pytest.fixture
def reader(tiny):
    store = pathlib.Path(os.environ.get("SCONCE_HOME", "nowhere"))
    if not any(MODEL in manifest.read_text() for manifest in store.glob("models/*.json")):
        pytest.skip("no model was pulled")
    hub = Hub()
    # What the pages pull, small enough for a test.
    for repo, folder in [("Qwen/Qwen3-0.6B", ""), ("meta-llama/Llama-3.1-8B-Instruct", ""), ("owner/repo", "int4/")]:
        for file in tiny.iterdir():
            hub.tell("put_file", {"repo": repo, "file": folder + file.name, "path": str(file)})
    for name in ("Qwen3-0.6B-Q8_0.gguf", "Qwen3-0.6B-Q4_0.gguf"):
        hub.put(name, "GGUF", repo="Qwen/Qwen3-0.6B-GGUF")
    reader = Reader(hub)
    reader.take_model(store)
    yield reader
    reader.leave()
    hub.process.stdin.close()
    hub.process.wait(PATIENCE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_does_what_it_says(reader, page):
    if page.stem == "bench":
        reader.forget_weights()
    reader.read(page)


def test_every_block_says_what_it_is():
    for page in PAGES:
        assert {kind for kind, _ in blocks(page)} <= LANGUAGES, page
        # None is indented, or open until the end.
        text = page.read_text()
        assert text.count("```") == 2 * len(blocks(page)), page


def headings(page):
    """What a link may name behind a #."""
    found = re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_every_link_leads_somewhere():
    lost = []
    for page in PAGES:
        for link in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", page.read_text())):
            if link.startswith("http"):
                continue
            path, _, anchor = link.partition("#")
            target = (page.parent / path) if path else page
            if not target.exists() or (anchor and anchor not in headings(target)):
                lost.append(f"{page.name}: {link}")
    assert not lost


def test_what_is_not_run_is_on_a_page():
    typed = everything()
    assert len(typed) > 40
    assert not [command for command in ELSEWHERE if command not in typed]
    assert not [there for there in MEANT if not any(there in command for command in typed)]
