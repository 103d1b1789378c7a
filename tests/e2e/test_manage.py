"""Models are managed over HTTP: a download tells how far it is, and stops when it is told to."""

import json
import threading
import urllib.request

import pytest

from conftest import PATIENCE
from test_fleet import machine, until  # noqa: F401
from test_hub import Hub

SIZE = 24_000_000


@pytest.fixture
def hub():
    hub = Hub()
    yield hub
    hub.process.stdin.close()
    hub.process.wait()


def post(url, path, model):
    body = json.dumps({"model": model}).encode()
    request = urllib.request.Request(url + path, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as reply:
        return json.load(reply)


def models(url):
    with urllib.request.urlopen(url + "/models", timeout=PATIENCE) as reply:
        return {it["id"]: it["status"] for it in json.load(reply)["data"]}


class Events:
    """What `/models/sse` says."""

    def __init__(self, url):
        self.all = []
        self.reply = urllib.request.urlopen(url + "/models/sse", timeout=PATIENCE)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        try:
            for line in self.reply:
                if line.startswith(b"data:"):
                    self.all.append(json.loads(line[5:]))
        except (OSError, ValueError):
            pass

    def of(self, model, event):
        return [it for it in self.all if (it["model"], it["event"]) == (model, event)]


@pytest.fixture
def url(machine, hub):
    machine.environment.update(
        HF_ENDPOINT=hub.url, HF_HUB_CACHE=str(machine.root / "cache"), HF_HOME=str(machine.root / "hf")
    )
    hub.put("config.json", '{"architectures": ["LlamaForCausalLM"]}')
    hub.put("tokenizer.json", "{}")
    hub.put_bytes("model.safetensors", SIZE)
    return machine.up("alpha:prod")["url"]


def test_a_download_tells_how_much_is_there(hub, url):
    hub.misbehave("cdn", {"slow": 1500})
    events, name = Events(url), "hf:owner/model"

    assert post(url, "/models", name) == {"success": True}
    until(lambda: events.of(name, "download_finished"))

    progress = [it["data"]["progress"][name] for it in events.of(name, "download_progress")]
    # The last of it may come between two looks.
    assert progress[-1]["total"] > SIZE
    assert all(it["done"] <= it["total"] for it in progress)
    assert [it["done"] for it in progress] == sorted(it["done"] for it in progress)
    assert events.of("*", "models_reload")
    until(lambda: "model@1" in models(url))
    # What it was asked for as is told of no more.
    until(lambda: events.of(name, "model_remove"))
    assert name not in models(url)


def test_a_download_can_be_stopped_and_gone_on_with(hub, url):
    hub.misbehave("cdn", *[{"slow": 600_000}] * 8)
    events, name = Events(url), "hf:owner/model"
    post(url, "/models", name)
    until(lambda: models(url).get(name, {}).get("progress", {}).get(name, {}).get("total", 0) > SIZE)
    assert models(url)[name]["value"] == "downloading"

    post(url, "/models/unload", name)

    until(lambda: events.of(name, "download_failed"))
    assert name not in models(url)


def test_a_download_that_fails_says_why(hub, url):
    events, name = Events(url), "hf:owner/absent"
    post(url, "/models", name)

    until(lambda: events.of(name, "download_failed"))
    status = models(url)[name]
    assert status["failed"] and "absent" in status["error"]
