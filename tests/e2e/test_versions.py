"""Versions of models, as a user types them: numbers, aliases, lock files, imports, room on the disk."""

import json
import os
import pathlib
import shutil
import subprocess
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
        return json.loads(self.run(*words, "--output", "json", status=status).stdout)

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
    old, new = write(tmp_path / "a.gguf", b"GGUF old"), write(tmp_path / "b.gguf", b"GGUF new")
    kept = write(tmp_path / "c.gguf", b"GGUF has an alias")
    for path, name in [(old, "old"), (new, "new"), (kept, "kept")]:
        store.run("import", str(path), "--name", name, "--copy")
    store.run("import", str(gguf), "--name", "running")
    store.run("alias", "set", "kept:prod", "kept@1")

    server = Server(model="running@1", home=store.home)
    try:
        assert {version["id"]: version["running"] for version in store.json("list")}["running@1"]
        assert "in use" in store.run("rm", "running", status=4).stderr
        planned = store.json("gc", "--max-size", "10B", "--dry-run", status=4)
        assert [removed["id"] for removed in planned["removed"]] == ["new@1", "old@1"]
        assert {it["id"]: it["why"] for it in planned["kept"]} == {
            "kept@1": "an alias stands for it",
            "running@1": "it is running",
        }
        assert store.ids() == ["kept@1", "new@1", "old@1", "running@1"]
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
