"""Open WebUI, really started, in front of a server whose models it manages as those of llama.cpp.

It keeps documents by embeddings of the same server. `tests/run.sh open-webui` installs and runs it.
"""

import importlib.util
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid

import pytest

import examples
import npm
from conftest import BINARY, PATIENCE

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("open_webui") is None,
    reason="Open WebUI is not installed here: tests/run.sh open-webui installs it",
)
# It imports for longer than anything of ours starts.
START_PATIENCE = 5 * PATIENCE


class WebUi:
    """Its API, as its page and its administrator's scripts use it."""

    def __init__(self, url, relay):
        self.url, self.relay, self.token = url, relay, None
        self.token = self.call("POST", "/api/v1/auths/signin", {"email": "", "password": ""})["token"]

    def request(self, method, path, body=None, content_type="application/json"):
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        request = urllib.request.Request(self.url + path, data, method=method)
        request.add_header("Content-Type", content_type)
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        return urllib.request.urlopen(request, timeout=PATIENCE)

    def call(self, *arguments, **options):
        with self.request(*arguments, **options) as reply:
            return json.load(reply)

    def refusal(self, *arguments):
        """Status and text of a request that is refused."""
        with pytest.raises(urllib.error.HTTPError) as refused:
            self.request(*arguments)
        return refused.value.code, refused.value.read().decode()

    def models(self):
        """Which models it shows, and whether they are loaded."""
        return {it["id"]: it["loaded"] for it in self.call("GET", "/api/models")["data"]}

    def states(self):
        catalog = self.call("GET", "/openai/models/0/catalog")
        return {it["id"]: it["status"]["value"] for it in catalog["data"]}

    def upload(self, name, text):
        """The id of a file, once it is embedded."""
        boundary = uuid.uuid4().hex
        part = f'Content-Disposition: form-data; name="file"; filename="{name}"\r\nContent-Type: text/plain'
        body = f"--{boundary}\r\n{part}\r\n\r\n{text}\r\n--{boundary}--\r\n".encode()
        kind = f"multipart/form-data; boundary={boundary}"
        file = self.call("POST", "/api/v1/files/", body, content_type=kind)["id"]
        read = lambda: self.call("GET", f"/api/v1/files/{file}")["data"]["status"]  # noqa: E731
        until(lambda: read() in ("completed", "failed"))
        assert read() == "completed"
        return file


def until(condition, patience=PATIENCE):
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def webui(pair, tmp_path_factory):
    directory = tmp_path_factory.mktemp("open-webui")
    create = [BINARY, "keys", "create", "--admin", "--name", "open-webui", "--database", pair.database]
    key = subprocess.run(create, capture_output=True, text=True, check=True).stdout.strip()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with examples.Relay(pair.url) as relay, open(directory / "log", "w+") as log:
        relay.goes_on.set()
        command = pathlib.Path(sys.executable).with_name("open-webui")
        process = subprocess.Popen(
            [command, "serve", "--host", "127.0.0.1", "--port", str(port)],
            cwd=directory, env=environment(directory, relay.url + "/v1", key),
            stdout=log, stderr=subprocess.STDOUT,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            until(lambda: is_healthy(url, process), START_PATIENCE)
            yield WebUi(url, relay)
        finally:
            process.kill()
            process.wait(PATIENCE)
            log.seek(0)
            print(log.read()[-6000:])


def environment(directory, base_url, key):
    # What docs/open-webui.md says, and no other host.
    return {
        **os.environ,
        "HOME": str(directory),
        "DATA_DIR": str(directory),
        "WEBUI_AUTH": "False",
        "WEBUI_SECRET_KEY": uuid.uuid4().hex,
        "OFFLINE_MODE": "true",
        "HF_HUB_OFFLINE": "1",
        "ENABLE_VERSION_UPDATE_CHECK": "false",
        "ANONYMIZED_TELEMETRY": "false",
        "ENABLE_OLLAMA_API": "false",
        "OPENAI_API_BASE_URL": base_url,
        "OPENAI_API_KEY": key,
        "OPENAI_API_CONFIGS": json.dumps({"0": {"provider": "llama.cpp"}}),
        "RAG_EMBEDDING_ENGINE": "openai",
        "RAG_EMBEDDING_MODEL": "minilm",
        "RAG_OPENAI_API_BASE_URL": base_url,
        "RAG_OPENAI_API_KEY": key,
        "CHUNK_SIZE": "500",
        "CHUNK_OVERLAP": "50",
        "DEFAULT_MODELS": "chat",
        "DEFAULT_MODEL_METADATA": json.dumps({"capabilities": {"builtin_tools": False}}),
        # Its page sets no limit of its own.
        "DEFAULT_MODEL_PARAMS": json.dumps({"max_tokens": 100, "temperature": 0}),
        "ENABLE_TITLE_GENERATION": "false",
        "ENABLE_TAGS_GENERATION": "false",
        "ENABLE_FOLLOW_UP_GENERATION": "false",
    }


def is_healthy(url, process):
    assert process.poll() is None, "Open WebUI did not start"
    try:
        with urllib.request.urlopen(url + "/health", timeout=PATIENCE):
            return True
    except OSError:
        return False


def test_it_lists_what_is_served(webui):
    assert webui.models() == {"chat": True, "minilm": True}
    assert webui.states() == dict.fromkeys(["chat@1", "minilm@1", "chat", "minilm"], "loaded")


def test_it_chats_and_streams(webui):
    request = {
        "model": "chat", "messages": [{"role": "user", "content": "Say hello."}], "temperature": 0,
        "max_tokens": 12,
    }
    whole = webui.call("POST", "/api/chat/completions", request)["choices"][0]["message"]["content"]
    pieces = []
    with webui.request("POST", "/api/chat/completions", {**request, "stream": True}) as reply:
        for line in reply:
            if line.startswith(b"data: {"):
                choices = json.loads(line.removeprefix(b"data: "))["choices"]
                pieces += [choice["delta"].get("content") or "" for choice in choices]
    assert len(list(filter(None, pieces))) > 1
    assert "".join(pieces) == whole != ""


def test_documents_are_found_by_our_embeddings(webui, pair):
    texts = {
        "food.txt": "Breakfast is served from seven to ten in the winter garden.",
        "pets.txt": "Dogs are welcome for ten francs a night, but not in the dining room.",
        # More than the model reads at once.
        "long.txt": (npm.HERE.parent / "parity" / "prose.txt").read_text(),
    }
    notes = {"name": "notes", "description": "notes of a hotel"}
    knowledge = webui.call("POST", "/api/v1/knowledge/create", notes)["id"]
    for name, text in texts.items():
        file = {"file_id": webui.upload(name, text)}
        webui.call("POST", f"/api/v1/knowledge/{knowledge}/file/add", file)

    for question, name in [("When can I eat in the morning?", "food.txt"), ("And my puppy?", "pets.txt")]:
        query = {"collection_name": knowledge, "query": question, "k": 1}
        [[found]] = webui.call("POST", "/api/v1/retrieval/query/doc", query)["documents"]
        assert found.strip() == texts[name]


def test_models_are_unloaded_and_loaded_and_each_change_is_told(webui):
    told = []
    events = webui.request("GET", "/openai/models/0/sse")

    def listen():
        with events:
            while told[-1:] != ["loaded"] and (line := events.readline()):
                if line.startswith(b"data: "):
                    event = json.loads(line.removeprefix(b"data: "))
                    assert (event["model"], event["event"]) == ("minilm@1", "model_status")
                    told.append(event["data"]["status"])

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    assert webui.call("POST", "/openai/models/0/unload", {"model": "minilm"}) == {"success": True}
    until(lambda: webui.states()["minilm@1"] == "unloaded")
    until(lambda: not webui.models()["minilm"])
    assert webui.models()["chat"]
    assert webui.call("POST", "/openai/models/0/load", {"model": "minilm"}) == {"success": True}
    until(lambda: webui.models()["minilm"])
    listener.join(PATIENCE)
    assert told == ["unloaded", "loading", "loaded"]
    assert webui.upload("again.txt", "Bicycles can be borrowed.")


def test_what_is_refused_is_said(webui):
    status, text = webui.refusal("DELETE", "/openai/models/0?model=chat@1")
    assert status == 409 and "chat@1" in text
    status, text = webui.refusal("POST", "/openai/models/0/load", {"model": "nobody"})
    assert status == 404 and "nobody" in text
    status, text = webui.refusal("POST", "/openai/models/0/download", {"model": "no such name"})
    assert status in (400, 404) and "no such name" in text
    assert webui.states()["chat@1"] == "loaded"


@npm.needs_modules
@npm.needs_chromium
def test_its_page_shows_an_answer_while_it_is_written_and_ejects_a_model(webui):
    pictures = npm.HERE.parent.parent / "target" / "open-webui"
    pictures.mkdir(parents=True, exist_ok=True)
    webui.relay.goes_on.clear()
    try:
        npm.run("open-webui", PAGE=webui.url, RELAY=webui.relay.url, PICTURES=str(pictures))
    finally:
        webui.relay.goes_on.set()
    until(lambda: webui.states()["minilm@1"] == "unloaded")
    webui.call("POST", "/openai/models/0/load", {"model": "minilm"})
    until(lambda: webui.states()["minilm@1"] == "loaded")
