"""Versions of models, as a user types them: numbers, aliases, lock files, imports, room on the disk."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading

import pytest

from conftest import BINARY, MODEL, Server

HOME = os.environ.get("SCONCE_HOME")


class Store:
    """A store of its own, and the commands on it."""

    def __init__(self, home):
        self.home = home

    def run(self, *words, status=0, **variables):
        environment = dict(os.environ, SCONCE_HOME=str(self.home), **variables)
        done = subprocess.run(
            [BINARY, *words], capture_output=True, text=True, env=environment, timeout=120
        )
        assert done.returncode == status, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *words, status=0):
        # Before the flags of workers, if there are any.
        at = words.index("--") if "--" in words else len(words)
        words = (*words[:at], "--output", "json", *words[at:])
        return json.loads(self.run(*words, status=status).stdout)

    def ids(self):
        return [version["id"] for version in self.json("list")]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "home")


@pytest.fixture
def gguf():
    """The weights that the other tests serve."""
    shared = Store(HOME).json("list") if HOME else []
    found = [version["model"] for version in shared if version["name"] == MODEL]
    if not found:
        pytest.skip("no model was pulled")
    return pathlib.Path(found[0])


def write(path, text):
    path.write_bytes(text)
    return path


def test_versions_have_numbers_and_names(store, tmp_path):
    first, second = write(tmp_path / "a.gguf", b"GGUF one"), write(tmp_path / "b.gguf", b"GGUF two")
    store.run("import", str(first), "--name", "tiny")
    store.run("import", str(second), "--name", "tiny")
    store.run("import", str(first), "--name", "tiny")
    assert store.ids() == ["tiny@1", "tiny@2"]

    assert "tiny:prod stands for tiny@1" in store.run("alias", "set", "tiny:prod", "tiny@1").stdout
    moved = store.run("alias", "set", "tiny:prod", "tiny").stdout
    assert moved == "tiny:prod stands for tiny@2, no longer for tiny@1\n"
    assert store.json("alias", "list") == [{"alias": "tiny:prod", "id": "tiny@2"}]
    assert store.json("show", "tiny:prod")["id"] == "tiny@2"
    assert store.json("show", "tiny@1")["files"][0]["size"] == 8

    aliased = store.run("rm", "tiny", status=4)
    assert "tiny:prod" in aliased.stderr and "hint: `sconce alias rm tiny:prod`" in aliased.stderr
    assert store.ids() == ["tiny@1", "tiny@2"]
    store.run("rm", "tiny@1")
    store.run("alias", "rm", "tiny:prod")
    store.run("rm", "tiny")
    assert store.ids() == [] and first.read_bytes() == b"GGUF one"

    # A number is never given twice.
    store.run("import", str(first), "--name", "tiny")
    assert store.ids() == ["tiny@3"]


def test_absence_conflict_and_nonsense_have_statuses_of_their_own(store, tmp_path):
    for words in [("show", "nobody"), ("rm", "nobody@1"), ("alias", "rm", "nobody:prod"), ("pull", "nobody:1")]:
        assert "error: " in store.run(*words, status=3).stderr
    assert "hint: " in store.run("show", "nobody", status=3).stderr
    store.run("show", "nobody@0", status=2)
    store.run("list", "--output", "xml", status=2)
    store.run("pull", "hf:owner/repo:model.gguf", "--offline", status=5)
    store.run("rm", "./mine.gguf", status=1)
    taken = store.run("alias", "set", "smollm2:135m", "nobody", status=4)
    assert "catalogue" in taken.stderr


def test_a_lock_file_carries_the_store_to_another_machine(store, gguf, tmp_path):
    store.run("import", str(gguf), "--name", "smollm2", "--copy")
    store.run("alias", "set", "smollm2:prod", "smollm2@1")
    lock = store.home / "models.lock"
    [version] = store.json("list")
    assert f'sha256 = "{version["files"][0]["sha256"]}"' in lock.read_text()

    other = Store(tmp_path / "other")
    lost = other.run("sync", str(lock), status=1)
    assert "hint: `sconce import`" in lost.stderr and other.ids() == []
    other.run("import", str(gguf), "--name", "whatever")
    assert other.json("sync", str(lock))["fetched"] == ["smollm2@1"]
    assert other.json("alias", "list") == [{"alias": "smollm2:prod", "id": "smollm2@1"}]
    assert other.json("sync", str(lock), "--prune")["removed"] == ["whatever@1"]
    assert other.ids() == ["smollm2@1"]
    other.run("pull", "--locked", str(lock))
    other.run("verify")

    # Back to a generation of its own.
    other.run("alias", "rm", "smollm2:prod")
    other.run("sync", "--generation", "3")
    assert other.json("alias", "list") == [{"alias": "smollm2:prod", "id": "smollm2@1"}]
    other.run("sync", str(tmp_path / "none.lock"), status=1)


def test_the_catalogues_model_is_a_version_with_two_names(gguf):
    shared = Store(HOME)
    if MODEL != "smollm2:135m":
        pytest.skip("the model is not the catalogue's")
    listed = [version for version in shared.json("list") if version["name"] == MODEL]
    assert listed[0]["id"].startswith("smollm2@")
    assert shared.json("show", "smollm2")["version"] == shared.json("show", MODEL)["version"]


def test_an_older_store_is_taken_over(store, gguf, tmp_path):
    path = str(shutil.copy(gguf, tmp_path / "model.gguf"))
    [file] = [version["files"][0] for version in Store(HOME).json("list") if version["name"] == MODEL]
    manifest = {
        "format": 1,
        "name": MODEL,
        "source": {"kind": "pypi", "package": "p", "version": "1"},
        "model": path,
        "version": "0123456789abcdef",
        "files": [dict(file, path=path)],
        "created": 1,
    }
    (store.home / "models").mkdir(parents=True)
    (store.home / "models" / "0123.json").write_text(json.dumps(manifest))

    [version] = store.json("list")
    assert version["name"] == MODEL and version["id"].endswith("@1") and version["model"] == path
    store.run("verify", MODEL)
    assert (store.home / "models.lock").exists()


def test_room_is_made_for_what_is_used(store, gguf, tmp_path):
    early, late = write(tmp_path / "a.gguf", b"GGUF old"), write(tmp_path / "b.gguf", b"GGUF new")
    kept = write(tmp_path / "c.gguf", b"GGUF has an alias")
    for path, name in [(early, "early"), (late, "late"), (kept, "kept")]:
        store.run("import", str(path), "--name", name, "--copy")
    store.run("import", str(gguf), "--name", "running")
    store.run("alias", "set", "kept:prod", "kept@1")

    server = Server(model="running@1", home=store.home)
    try:
        assert {version["id"]: version["running"] for version in store.json("list")}["running@1"]
        assert "in use" in store.run("rm", "running", status=4).stderr
        planned = store.json("gc", "--max-size", "10B", "--dry-run", status=4)
        assert [removed["id"] for removed in planned["removed"]] == ["early@1", "late@1"]
        assert {it["id"]: it["why"] for it in planned["kept"]} == {
            "kept@1": "an alias stands for it",
            "running@1": "it is running",
        }
        assert store.ids() == ["early@1", "kept@1", "late@1", "running@1"]
        assert store.json("gc", "--max-size", "10B", status=4) == planned
        assert store.ids() == ["kept@1", "running@1"]
    finally:
        server.stop()

    [running] = [version for version in store.json("list") if version["id"] == "running@1"]
    assert not running["running"] and running["last_used"] > 0
    store.json("gc", "--max-size", "1KB")
    assert store.ids() == ["kept@1"] and gguf.exists()
    store.run("gc", "--max-size", "huge", status=2)


def test_an_imported_model_is_served_under_its_alias(store, gguf):
    store.run("import", str(gguf), "--name", "mine")
    store.run("alias", "set", "mine:prod", "mine")

    server = Server(model="mine:prod", home=store.home)
    try:
        assert server.model == "mine:prod"
        status, _, body = server.post(
            "/v1/completions", {"model": "mine:prod", "prompt": "One, two,", "max_tokens": 2}
        )
        assert status == 200, body
    finally:
        server.stop()


def test_commands_at_once_lose_nothing(store, tmp_path):
    paths = [write(tmp_path / f"{number}.gguf", b"GGUF %d" % number) for number in range(6)]
    threads = [
        threading.Thread(target=store.run, args=("import", str(path), "--name", "tiny"))
        for path in paths
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.ids() == [f"tiny@{number}" for number in range(1, 7)]


def test_a_plan_says_what_fits_and_refuses_what_does_not(store, gguf):
    planned = store.json("plan", str(gguf), "--concurrency", "4", "--context", "1000")
    assert planned["isa"] and planned["plan"]["context"] == 1000 and planned["plan"]["concurrency"] == 4
    assert planned["plan"]["needed_bytes"] <= planned["plan"]["available_bytes"]
    flags = planned["worker_flags"]
    assert flags[flags.index("--max-model-len") + 1] == "1000"
    assert re.search(r"- a KV cache of \S+ MiB, the default\n", store.run("plan", str(gguf)).stdout)

    huge = store.run("plan", str(gguf), "--concurrency", "100000", "--context", "8192", status=7)
    assert "100000 sequences of 8192 tokens" in huge.stderr and "hint: " in huge.stderr
    beyond = store.run("plan", str(gguf), "--context", "10000000", status=7)
    assert "8192 positions" in beyond.stderr
    refused = store.run("plan", str(gguf), "--", "--quantize", "q4", status=1)
    assert "nothing to quantize" in refused.stderr
    store.run("plan", "nobody", status=3)
    store.run("up", str(gguf), "--no-auth", "--port", "0", "--concurrency", "4000", "--context", "8192", status=7)


def test_a_share_is_of_a_model_that_there_is_and_said_once(store, gguf):
    store.run("import", str(gguf), "--name", "small")
    absent = store.run("up", "small", "--memory-share", "other=10%", status=3)
    assert "`other`" in absent.stderr and "hint: " in absent.stderr
    twice = store.run("up", "small", "--memory-share", "small=10%", "--memory-share", "small=20%", status=2)
    assert "`small` twice" in twice.stderr


def test_a_plan_is_kept(store, gguf):
    """What a worker takes once its weights, buffers and cache are used is near what was planned."""
    flags = ["--kv-cache-bytes", str(64 << 20), "--max-num-seqs", "8"]
    planned = store.json("plan", str(gguf), "--", *flags)["plan"]
    server = Server(*flags, model=str(gguf), home=store.home)
    try:
        children = f"/proc/{server.process.pid}/task/{server.process.pid}/children"
        used = 0
        for child in pathlib.Path(children).read_text().split():
            status = pathlib.Path(f"/proc/{child}/status").read_text()
            used += int(status.split("RssAnon:")[1].split()[0]) * 1024
    finally:
        server.stop()
    assert used < planned["needed_bytes"]
    assert used > planned["weight_bytes"] / 2


def test_defaults_take_effect_when_the_model_is_served(store, gguf, tmp_path):
    store.run("import", str(gguf), "--name", "base")
    recipe = tmp_path / "helper.toml"
    (tmp_path / "chat.jinja").write_text("{{ messages[0].content }}")
    recipe.write_text(
        'base = "base"\ncontext_length = 512\nconcurrency = 3\nspeculation = "off"\n'
        'chat_template_file = "chat.jinja"\n'
    )
    created = store.json("create", "helper", "-f", str(recipe))
    assert created["id"] == "helper@1" and created["model"] == store.json("show", "base")["model"]

    listed = store.run("list").stdout
    assert "base@1, with defaults of its own" in listed and "create:" not in listed
    assert "made of    base@1\n" in store.run("show", "helper").stdout

    server = Server(model="helper", home=store.home)
    try:
        [model] = server.get("/v1/models")["data"]
        assert model["id"] == "helper" and model["max_model_len"] == 512
        question = {"model": "helper", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
        status, _, body = server.post("/v1/chat/completions", question)
        assert status == 200 and body["usage"]["prompt_tokens"] == 1, body
    finally:
        server.stop()

    # A command line has the last word.
    server = Server("--max-model-len", "256", model="helper", home=store.home)
    try:
        assert server.get("/v1/models")["data"][0]["max_model_len"] == 256
    finally:
        server.stop()


def ask(server, **fields):
    body = {"model": server.model, "messages": [{"role": "user", "content": "Tell a story."}]}
    status, _, reply = server.post("/v1/chat/completions", {**body, **fields})
    assert status == 200, reply
    return reply["choices"][0]["message"]["content"], reply["usage"]["completion_tokens"]


def test_sampling_defaults_fill_what_a_request_leaves_open(store, gguf, tmp_path):
    store.run("import", str(gguf), "--name", "base")
    recipe = tmp_path / "careful.toml"
    recipe.write_text(
        'base = "base"\n[sampling]\ntemperature = 0\ntop_p = 0.9\nmax_tokens = 7\nstop = ["\\u0000"]\n'
    )
    created = store.json("create", "careful", "-f", str(recipe))
    assert created["defaults"]["sampling"]["max_tokens"] == 7
    assert '"temperature":0' in store.run("show", "careful").stdout
    # A lock file carries them: they are part of the version.
    assert "max_tokens = 7" in (store.home / "models.lock").read_text()

    server = Server(model="careful", home=store.home)
    try:
        greedy, num_tokens = ask(server)
        assert num_tokens == 7
        # Greedy, so that no seed matters.
        assert [ask(server, seed=seed)[0] for seed in range(4)] == [greedy] * 4
        # What a request says goes before.
        assert ask(server, max_tokens=3)[1] == 3
        hot = {ask(server, temperature=2, top_p=1, seed=seed)[0] for seed in range(4)}
        assert len(hot) > 1
        _, _, reply = server.post("/v1/responses", {"model": "careful", "input": "Hello"})
        assert (reply["temperature"], round(reply["top_p"], 3)) == (0, 0.9)
        assert reply["usage"]["output_tokens"] == 7
    finally:
        server.stop()


def test_a_models_own_generation_config_is_followed_unless_told_otherwise(tmp_path):
    folder = tmp_path / "tiny"
    script = pathlib.Path(__file__).parents[1] / "tiny_model.py"
    subprocess.run([sys.executable, script, folder], check=True)
    own = folder / "generation_config.json"
    own.write_text(json.dumps({"do_sample": True, "temperature": 0.0, "max_new_tokens": 5}))

    def num_tokens(*flags):
        server = Server(*flags, model=str(folder), home=tmp_path / "home")
        try:
            return ask(server, ignore_eos=True)[1]
        finally:
            server.stop()

    assert num_tokens() == 5
    assert num_tokens("--override-generation-config", '{"max_tokens": 6}') == 6
    assert num_tokens("--generation-config", "none", "--max-model-len", "64") > 6

    own.write_text(json.dumps({"temperature": -1}))
    refused = subprocess.run(
        [BINARY, "worker", "--describe", "--model", folder], capture_output=True, text=True
    )
    assert refused.returncode != 0
    assert "generation_config.json" in refused.stderr and "`temperature` is -1" in refused.stderr


def test_a_recipe_that_can_not_take_effect_is_refused(store, gguf, tmp_path):
    store.run("import", str(gguf), "--name", "base")
    recipe = tmp_path / "helper.toml"
    for line, said in [
        ("temperature = 0.5", "temperature"),
        ("[sampling]\ntemperature = 3", "`temperature` is 3 and must be from 0 to 2"),
        ("[sampling]\ntemprature = 1", "temprature"),
        ('quantize = "q4"', "nothing to quantize"),
        ("context_length = 1000000", "positions"),
        ('tool_parser = "unheard-of"', "unheard-of"),
    ]:
        recipe.write_text(f'base = "base"\n{line}\n')
        assert said in store.run("create", "helper", "-f", str(recipe), status=1).stderr
    recipe.write_text('base = "nobody"\n')
    store.run("create", "helper", "-f", str(recipe), status=3)
    assert store.ids() == ["base@1"]


def test_the_doctor_looks_and_tells_no_secret(store):
    healthy = store.run("doctor", "--port", "0", "--output", "json", HF_TOKEN="hf_secret")
    findings = {finding["check"]: finding for finding in json.loads(healthy.stdout)}
    assert findings["processor"]["why"] and findings["HF_TOKEN"]["verdict"] == "ok"
    assert all((finding["remedy"] is None) == (finding["verdict"] == "ok") for finding in findings.values())
    assert not store.home.exists()

    store.home.mkdir(mode=0o700)
    (store.home / "models.lock").write_text("<<<<<<< ours")
    sick = store.run("doctor", "--port", "0", status=1, HF_TOKEN="hf_secret", HF_ENDPOINT="http://hub.example")
    assert "FAIL  HF_ENDPOINT" in sick.stdout and "FAIL  store" in sick.stdout
    assert "secret" not in healthy.stdout + sick.stdout + sick.stderr
