"""Runs the programs in clients/ as their readers would."""

import contextlib
import http.client
import http.server
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import urllib.parse

import pytest

import npm
from conftest import PATIENCE, Output

CLIENTS = pathlib.Path(__file__).parent.parent.parent / "clients"


class Language:
    """How the examples of one language are started."""

    def __init__(self, directory):
        self.directory = directory

    def command(self, name, *arguments):
        raise NotImplementedError

    def run(self, server, name, *arguments):
        """What an example prints; it has to end well."""
        done = subprocess.run(
            self.command(name, *arguments), env=environment(server.url, server.key),
            capture_output=True, text=True, timeout=600,
        )
        assert done.returncode == 0, f"{name}: {done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    @contextlib.contextmanager
    def started(self, url, key, name, *arguments):
        """An example that is being run."""
        process = subprocess.Popen(
            self.command(name, *arguments), env={**environment(url, key), "PORT": "0"},
            stdout=subprocess.PIPE, text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait(PATIENCE)

    @contextlib.contextmanager
    def web(self, url, key, model):
        """The URL of the web page."""
        with self.started(url, key, "web", model) as process:
            yield Output(process).find(r"^http://127\.0\.0\.1:\d+$").group(0)


class Python(Language):
    def command(self, name, *arguments):
        script = self.directory / f"{name}.py"
        return [sys.executable, str(script), *arguments]


class Node(Language):
    def command(self, name, *arguments):
        script = self.directory / f"{name.replace('_', '-')}.mjs"
        return ["node", str(script), *arguments]


def python(package):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed here: tests/run.sh knows where")
    return Python(CLIENTS / "python")


def node():
    if npm.MODULES is None:
        pytest.skip("SCONCE_NODE_MODULES is not set: tests/run.sh sets it")
    # Beside their packages, where Node looks for them.
    copied = npm.directory() / "clients"
    shutil.copytree(CLIENTS / "node", copied / "node", dirs_exist_ok=True)
    shutil.copytree(CLIENTS / "web", copied / "web", dirs_exist_ok=True)
    return Node(copied / "node")


def environment(url, key):
    # As on a machine that has none of the tests' settings: these have Python print at once.
    bare = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {
        **bare,
        "OPENAI_BASE_URL": url + "/v1",
        "OPENAI_API_KEY": key,
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": key,
    }


class Relay:
    """Stands before a server, and holds an event stream back after its first text until told to go
    on. Whoever shows the text by then has not waited for the rest. `fields` are put into requests."""

    def __init__(self, url, **fields):
        self.host = urllib.parse.urlsplit(url).netloc
        self.goes_on = threading.Event()
        self.is_holding = threading.Event()
        relay = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                relay.forward(self, None)

            do_DELETE = do_GET

            def do_POST(self):
                if self.path == "/go-on":
                    relay.goes_on.set()
                    self.send_response(204)
                    self.end_headers()
                    return
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                relay.forward(self, json.dumps({**body, **fields}))

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.goes_on.set()
        self.server.shutdown()
        self.server.server_close()

    def forward(self, request, body):
        names = ["Authorization", "Content-Type"]
        kept = {name: request.headers[name] for name in names if name in request.headers}
        with contextlib.closing(http.client.HTTPConnection(self.host, timeout=PATIENCE)) as connection:
            connection.request(request.command, request.path, body, kept)
            with connection.getresponse() as reply, contextlib.suppress(ConnectionError):
                request.send_response(reply.status)
                request.send_header("Content-Type", reply.headers["Content-Type"])
                request.end_headers()
                for line in reply:
                    request.wfile.write(line)
                    if not self.goes_on.is_set() and has_text(line):
                        self.hold(request)

    def hold(self, request):
        # The empty line ends the event.
        request.wfile.write(b"\n")
        self.is_holding.set()
        if not self.goes_on.wait(PATIENCE):
            self.is_holding.clear()
            raise TimeoutError("nobody has seen the first text")


def has_text(line):
    if not line.startswith(b"data: {"):
        return False
    choices = json.loads(line.removeprefix(b"data: ")).get("choices", [])
    return any(choice["delta"].get("content") for choice in choices)
