"""Pulls from a stand-in for the hub, by us and by the hub's own client: the same answers do for both,
and each reads what the other left in the cache."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from conftest import BINARY

STAND_IN = os.environ.get(
    "SCONCE_STAND_IN_HUB", str(pathlib.Path(BINARY).with_name("sconce-stand-in-hub"))
)
REPO = "owner/model"
FIRST = "0123456789abcdef0123456789abcdef01234567"
LATER = "89abcdef0123456789abcdef0123456789abcdef"
# The hub's client goes on after a break in steps of 10 MB.
LARGE = 12_000_000

# One call of the hub's own client, with its arguments as JSON.
CLIENT = """
import json, sys
import huggingface_hub
try:
    answer = getattr(huggingface_hub, sys.argv[1])(**json.loads(sys.argv[2]))
    print(json.dumps({"answer": str(answer)}))
except Exception as error:
    print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
"""


class Hub:
    """The stand-in, which ends when its input does."""

    def __init__(self):
        if not pathlib.Path(STAND_IN).exists():
            pytest.skip(f"{STAND_IN} is not built")
        self.process = subprocess.Popen(
            [STAND_IN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        said = json.loads(self.process.stdout.readline())
        self.url = said["url"]

    def tell(self, name, value=None):
        command = name if value is None else {name: value}
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def put(self, file, text, repo=REPO):
        self.tell("put", {"repo": repo, "file": file, "text": text})

    def put_bytes(self, file, size, seed=1, repo=REPO):
        self.tell("put_bytes", {"repo": repo, "file": file, "size": size, "seed": seed})

    def misbehave(self, host, *faults):
        self.tell("misbehave", {"host": host, "faults": list(faults)})

    def seen(self, host=None):
        requests = self.tell("seen")["requests"]
        return [it for it in requests if host in (None, it["host"])]

    def num_bytes(self):
        return self.tell("seen")["num_bytes"]


class Refused(Exception):
    """What a client said instead of bringing a model."""


class Client:
    """A client with a cache."""

    def __init__(self, hub, home):
        self.hub, self.home = hub, home
        self.cache = home / "cache"
        self.variables = {
            "HF_ENDPOINT": hub.url,
            "HF_HUB_CACHE": str(self.cache),
            "HF_HOME": str(home / "hf"),
            "HF_TOKEN": "hf_secret",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "SCONCE_HOME": str(home / "sconce"),
        }

    def run(self, *words):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        return subprocess.run(
            [str(word) for word in words],
            capture_output=True,
            text=True,
            env={**environment, **self.variables},
            timeout=120,
        )


class Sconce(Client):
    def pull(self, repo=REPO, newest=False, **_):
        """The folder of a repository's model."""
        update = ["--update"] if newest else []
        done = self.run(BINARY, "pull", f"hf:{repo}", *update)
        if done.returncode != 0:
            raise Refused(done.stderr)
        shown = self.run(BINARY, "show", f"hf:{repo}", "--output", "json")
        return pathlib.Path(json.loads(shown.stdout)["model"])


class HuggingFace(Client):
    def call(self, function, **arguments):
        done = self.run(sys.executable, "-c", CLIENT, function, json.dumps(arguments))
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout.splitlines()[-1])
        if "error" in said:
            raise Refused(said["error"])
        return said["answer"]

    def pull(self, repo=REPO, newest=False, **arguments):
        return pathlib.Path(self.call("snapshot_download", repo_id=repo, **arguments))


@pytest.fixture
def hub():
    hub = Hub()
    hub.put("config.json", '{"model_type": "llama"}')
    hub.put("tokenizer.json", "{}")
    hub.put_bytes("model.safetensors", 300_000)
    yield hub
    hub.process.stdin.close()
    hub.process.wait(timeout=30)


@pytest.fixture(params=[Sconce, HuggingFace], ids=["sconce", "huggingface_hub"])
def client(request, hub, tmp_path):
    return request.param(hub, tmp_path)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def assert_whole(folder, size=300_000):
    files = contents(folder)
    assert sorted(files) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert files["config.json"] == b'{"model_type": "llama"}'
    assert len(files["model.safetensors"]) == size
    # Its place in the cache is its content's name.
    link = os.readlink(folder / "model.safetensors")
    assert os.path.basename(link) == sha256(files["model.safetensors"])


def sha256(data):
    import hashlib

    return hashlib.sha256(data).hexdigest()


def test_a_repository_is_brought_whole_and_the_token_stays_with_the_hub(hub, client):
    folder = client.pull()

    assert_whole(folder)
    assert folder.name == FIRST
    refs = client.cache / "models--owner--model" / "refs" / "main"
    assert refs.read_text() == FIRST
    at_hub = [it for it in hub.seen("hub") if it["authorization"] is not None]
    assert at_hub and all(it["authorization"] == "Bearer hf_secret" for it in at_hub)
    assert len(hub.seen("cdn")) >= 1
    assert all(it["authorization"] is None for it in hub.seen("cdn"))


def test_what_is_here_is_not_fetched_again(hub, client):
    client.pull()
    before = len(hub.seen())

    assert_whole(client.pull(newest=True))

    again = hub.seen()[before:]
    assert all("/resolve/" not in it["path"] for it in again), again
    client.variables["HF_HUB_OFFLINE"] = "1"
    before = len(hub.seen())
    assert_whole(client.pull())
    assert len(hub.seen()) == before


def test_a_gated_repository_wants_the_token_that_opens_it(hub, client):
    hub.tell("gate", {"repo": REPO, "token": "hf_right"})
    with pytest.raises(Refused, match="(?i)gated|terms to be accepted"):
        client.pull()
    assert hub.num_bytes() == 0

    client.variables["HF_TOKEN"] = "hf_right"
    assert_whole(client.pull())


def test_the_token_of_a_login_is_used(hub, client):
    hub.tell("gate", {"repo": REPO, "token": "hf_login"})
    del client.variables["HF_TOKEN"]
    token = client.home / "token"
    token.write_text("hf_login\n")
    client.variables["HF_TOKEN_PATH"] = str(token)

    assert_whole(client.pull())


def test_a_renamed_repository_is_followed(hub, client):
    hub.tell("rename", {"from": REPO, "to": "owner/renamed"})

    assert_whole(client.pull())


def test_a_branch_that_moved_is_followed(hub, client):
    client.pull()
    hub.tell("move_to", LATER)
    hub.put_bytes("model.safetensors", 200_000, seed=2)

    folder = client.pull(newest=True)

    assert folder.name == LATER
    assert_whole(folder, size=200_000)
    # The files of the first commit are as they were.
    assert_whole(folder.parent / FIRST)


def test_a_list_of_files_goes_over_pages(hub, client):
    hub.tell("page", 30)
    for shard in range(1, 101):
        hub.put_bytes(f"model-{shard:05}-of-00100.safetensors", 100 + shard, seed=shard)

    folder = client.pull()

    shards = sorted(folder.glob("model-*.safetensors"))
    assert [path.stat().st_size for path in shards] == [100 + shard for shard in range(1, 101)]
    assert len([it for it in hub.seen() if "/tree/" in it["path"]]) == 4


def test_a_download_that_breaks_off_goes_on(hub, client):
    hub.put_bytes("model.safetensors", LARGE, seed=3)
    hub.misbehave("cdn", {"cut": 11_000_000})

    folder = client.pull()

    assert_whole(folder, size=LARGE)
    first, second = hub.seen("cdn")
    assert (first["range"], second["range"] is None) == (None, False)
    assert hub.num_bytes() < 2 * LARGE - 9_000_000


@pytest.mark.parametrize(
    "fault",
    [{"retry_after": [429, "1"]}, {"rate_limit": [429, 1]}, {"status": 500}, {"status": 503}],
    ids=["retry_after", "rate_limit", "500", "503"],
)
@pytest.mark.parametrize("host", ["hub", "cdn"])
def test_a_host_that_is_busy_is_asked_again(hub, client, host, fault):
    if host == "hub":
        # The hub's client asks for a list only once; where files are, it asks again.
        hub.misbehave("hub", {"slow": 0}, {"slow": 0}, fault)
    else:
        hub.misbehave("cdn", fault)
    if host == "cdn" and "status" in fault and isinstance(client, HuggingFace):
        # It gives up at once where the content is. We do not.
        with pytest.raises(Refused, match=str(fault["status"])):
            client.pull()

    assert_whole(client.pull())


@pytest.mark.parametrize("name", ["owner/none", f"{REPO}@gone"])
def test_what_is_not_there_is_said(hub, client, name):
    repo, _, revision = name.partition("@")
    with pytest.raises(Refused, match="(?i)no such|not ?found"):
        if isinstance(client, Sconce):
            client.pull(name)
        else:
            client.pull(repo, **({"revision": revision} if revision else {}))


def test_a_hub_that_speaks_of_chunks_is_asked_for_files(hub, client):
    hub.tell("offer_xet")

    assert_whole(client.pull())


@pytest.fixture
def both(hub, tmp_path):
    return Sconce(hub, tmp_path), HuggingFace(hub, tmp_path)


def test_the_hubs_client_reads_our_cache(hub, both):
    ours, theirs = both
    folder = ours.pull()
    before = len(hub.seen())

    assert theirs.pull(local_files_only=True) == folder
    assert len(hub.seen()) == before
    # And nothing is fetched when it may ask.
    num_bytes = hub.num_bytes()
    assert theirs.pull() == folder
    assert hub.num_bytes() == num_bytes
    scanned = theirs.call("scan_cache_dir")
    assert "owner/model" in scanned and "warnings=[]" in scanned


def test_the_hubs_client_finds_our_files_intact(both):
    ours, theirs = both
    ours.pull()
    hf = pathlib.Path(sys.executable).with_name("hf")

    done = theirs.run(hf, "cache", "verify", REPO)

    assert done.returncode == 0, done.stdout + done.stderr


def test_we_read_the_cache_of_the_hubs_client_and_leave_it_as_it_is(hub, both):
    ours, theirs = both
    folder = theirs.pull()
    num_bytes = hub.num_bytes()
    ours.variables["HF_HUB_OFFLINE"] = "1"

    assert ours.pull() == folder
    assert hub.num_bytes() == num_bytes
    assert ours.run(BINARY, "verify").returncode == 0
    assert ours.run(BINARY, "rm", "model").returncode == 0
    # What we found there is not ours to delete.
    assert_whole(theirs.pull(local_files_only=True))


def test_a_download_that_we_left_half_done_is_no_trap_for_the_hubs_client(hub, both):
    ours, theirs = both
    hub.misbehave("cdn", {"cut": 100_000}, {"status": 404})
    with pytest.raises(Refused, match="404"):
        ours.pull()

    assert_whole(theirs.pull())
    assert_whole(ours.pull())


def test_a_filter_is_what_it_is_for_the_hubs_client(hub, both):
    ours, theirs = both
    for name in ["m.Q4_0.gguf", "m.Q8_0.gguf"]:
        hub.put_bytes(name, 5000, repo="owner/gguf")
    done = ours.run(BINARY, "pull", "hf:owner/gguf", "--include", "*Q4*")
    assert done.returncode == 0, done.stderr

    theirs_folder = theirs.pull("owner/gguf", allow_patterns="*Q4*", local_files_only=True)

    assert [path.name for path in theirs_folder.iterdir()] == ["m.Q4_0.gguf"]
    refused = ours.run(BINARY, "pull", "hf:owner/gguf")
    assert refused.returncode == 0, "what was chosen is what the name means now"


def test_what_the_hub_does_not_have_and_does_not_open_are_told_apart(hub, tmp_path):
    ours = Sconce(hub, tmp_path)
    for name in ["hf:owner/none", f"hf:{REPO}@gone", f"hf:{REPO}:none.gguf"]:
        done = ours.run(BINARY, "pull", name)
        assert done.returncode == 3 and "status 404" in done.stderr, name
    hub.tell("gate", {"repo": REPO, "token": "hf_right"})

    done = ours.run(BINARY, "pull", f"hf:{REPO}")

    assert done.returncode == 1 and "hint: HF_TOKEN" in done.stderr


def test_offline_is_a_status_of_its_own(hub, tmp_path):
    ours = Sconce(hub, tmp_path)
    ours.variables["HF_HUB_OFFLINE"] = "1"

    done = ours.run(BINARY, "pull", f"hf:{REPO}")

    assert done.returncode == 5 and "offline" in done.stderr
    assert hub.seen() == []
