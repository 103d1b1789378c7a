"""Files and batches: by OpenAI's SDK as it is, by `sconce batch`, in a bucket, in a shared database, and
with everybody killed."""

import contextlib
import io
import json
import os
import pathlib
import pty
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

import pytest

import postgres
from conftest import BINARY, PATIENCE, Output
from prompts import chat

openai = pytest.importorskip("openai")

ROOT = pathlib.Path(__file__).parents[2]
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
FINAL = ("completed", "failed", "expired", "cancelled")


def jsonl(lines):
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def parsed(text):
    """The lines of a file of answers, in which there may be other characters that end lines elsewhere."""
    return [json.loads(line) for line in text.split("\n") if line]


def line(custom_id, body, url=CHAT):
    return dict(custom_id=custom_id, method="POST", url=url, body=body)


def wait(client, batch):
    deadline = time.monotonic() + PATIENCE
    while batch.status not in FINAL:
        assert time.monotonic() < deadline, batch
        time.sleep(0.1)
        batch = client.batches.retrieve(batch.id)
    return batch


def submit(client, lines, endpoint=CHAT):
    file = client.files.create(file=("lines.jsonl", jsonl(lines)), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h")


def results(client, file_id):
    return parsed(client.files.content(file_id).text)


class Stack:
    """A worker of the hash model and routers before it, started by hand."""

    def __init__(self, directory, step_us=0, worker=()):
        self.directory, self.children = pathlib.Path(directory), []
        self.worker = f"unix:{self.directory / 'worker.sock'}"
        self.start("worker", "--model", "hash", "--listen", self.worker, "--hash-step-us", str(step_us),
                   "--max-model-len", "512", *worker, ready="ready")

    def start(self, *words, ready, **environment):
        log = open(self.directory / f"{len(self.children)}.log", "w")
        child = subprocess.Popen(
            [BINARY, *words], stdout=subprocess.PIPE, stderr=log, text=True,
            env=dict(os.environ, **environment),
        )
        self.children.append(child)
        log.close()
        try:
            return Output(child).find(ready)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{pathlib.Path(log.name).read_text()[-4000:]}") from None

    def router(self, *words, database=None, **environment):
        """The address of a new router."""
        database = database or str(self.directory / "sconce.db")
        match = self.start(
            "router", "--worker", self.worker, "--listen", "127.0.0.1:0", "--database", database, *words,
            ready=r"listening (http://\S+)", **environment,
        )
        return match.group(1)

    def key(self, name, database=None, **environment):
        database = database or str(self.directory / "sconce.db")
        done = subprocess.run(
            [BINARY, "keys", "create", "--name", name, "--database", database], check=True, capture_output=True,
            text=True, env=dict(os.environ, **environment),
        )
        return re.search(r"sk-sconce-\S+", done.stdout + done.stderr).group(0)

    def stop(self):
        for child in self.children:
            child.kill()
            child.wait()


@pytest.fixture
def stack():
    with tempfile.TemporaryDirectory(prefix="sconce-batch-") as directory:
        stacks = []

        def start(**options):
            stacks.append(Stack(directory, **options))
            return stacks[-1]

        yield start
        for stack in stacks:
            stack.stop()


def client_of(url, key="none"):
    return openai.OpenAI(base_url=url + "/v1", api_key=key, timeout=PATIENCE, max_retries=2)


def text_lines(count):
    body = lambda i: dict(model="hash", prompt=f"x y {i}", max_tokens=6, temperature=0, ignore_eos=True)
    return [line(f"line-{i}", body(i), TEXT) for i in range(count)]


def answers(client, lines):
    """What the lines are answered with one by one."""
    text = lambda body: client.completions.create(
        **{name: value for name, value in body.items() if name != "ignore_eos"},
        extra_body={"ignore_eos": body["ignore_eos"]},
    ).choices[0].text
    return {it["custom_id"]: text(it["body"]) for it in lines}


def answered(output):
    found = [(it["custom_id"], it["response"]["body"]["choices"][0]["text"]) for it in output]
    assert len(dict(found)) == len(found), "a line was answered twice"
    return dict(found)


def test_a_file_is_stored_listed_read_and_deleted(client):
    content = b"\x00\x01 anything \xff" * 1000

    file = client.files.create(
        file=("notes.bin", content), purpose="user_data",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )

    assert (file.object, file.bytes, file.filename) == ("file", len(content), "notes.bin")
    assert (file.purpose, file.status) == ("user_data", "processed")
    assert file.expires_at == file.created_at + 3600
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).content == content
    more = [client.files.create(file=io.BytesIO(b"x"), purpose="user_data") for _ in range(3)]
    # The SDK asks for pages by itself.
    listed = [it.id for it in client.files.list(limit=2, purpose="user_data", order="asc")]
    assert listed == [file.id, *(it.id for it in more)]
    assert file.id not in [it.id for it in client.files.list(purpose="batch")]
    for it in [file, *more]:
        deleted = client.files.delete(it.id)
        assert deleted.deleted and deleted.id == it.id
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)
    with pytest.raises(openai.NotFoundError):
        client.files.content(file.id)


@pytest.mark.parametrize(
    ("content", "purpose", "param", "expected"),
    [
        (b"{}\n{}\n[1]\n", "batch", "file", "line 3 is not a JSON object"),
        (b"{}\n{\"a\": \n", "batch", "file", "line 2 is not a JSON object"),
        (b"{}\n{\"a\": \"\xff\"}\n", "batch", "file", "line 2 is not UTF-8"),
        (b"", "batch", "file", "no lines"),
        (b"x", "batch_output", "purpose", "only the server makes files for it"),
        (b"x", "fun", "purpose", "it may be one of"),
    ],
)
def test_a_file_that_is_not_what_it_is_for_is_refused(client, content, purpose, param, expected):
    with pytest.raises(openai.BadRequestError) as refused:
        client.files.create(file=("a.jsonl", content), purpose=purpose)

    assert refused.value.param == param
    assert expected in refused.value.message


def test_a_batch_of_chats_is_answered(client, server):
    chats = [dict(model=server.model, messages=chat(f"Count to {i}."), max_tokens=8, temperature=0)
             for i in range(4)]
    wrong = dict(model=server.model, messages=chat("hi"), max_tokens=-1)
    lines = [line(f"chat-{i}", body) for i, body in enumerate(chats)] + [line("wrong", wrong)]

    made = submit(client, lines)
    batch = wait(client, made)

    assert made.object == "batch" and made.endpoint == CHAT and made.completion_window == "24h"
    assert batch.status == "completed"
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (5, 4, 1)
    output = {it["custom_id"]: it for it in results(client, batch.output_file_id)}
    assert set(output) == {f"chat-{i}" for i in range(4)}
    for i, body in enumerate(chats):
        response = output[f"chat-{i}"]["response"]
        alone = client.chat.completions.create(**body)
        assert response["status_code"] == 200
        assert response["body"]["choices"][0]["message"]["content"] == alone.choices[0].message.content
    [failed] = results(client, batch.error_file_id)
    assert failed["custom_id"] == "wrong"
    assert client.files.retrieve(batch.output_file_id).purpose == "batch_output"
    assert batch.id in [it.id for it in client.batches.list(limit=20)]


def test_what_no_batch_can_be_made_of_is_refused(client):
    with pytest.raises(openai.APIStatusError) as refused:
        client.batches.create(input_file_id="file-none", endpoint=CHAT, completion_window="24h")
    assert refused.value.status_code in (400, 404)

    file = client.files.create(file=("a.txt", b"{}\n"), purpose="user_data")
    with pytest.raises(openai.BadRequestError):
        client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    client.files.delete(file.id)


def test_a_batch_is_cancelled(stack):
    client = client_of(stack(step_us=20_000, worker=["--max-num-seqs", "2"]).router("--no-auth"))

    batch = client.batches.cancel(submit(client, text_lines(400), TEXT).id)
    batch = wait(client, batch)

    assert batch.status == "cancelled" and batch.cancelled_at
    assert batch.request_counts.completed < 400
    if batch.output_file_id:
        assert len(results(client, batch.output_file_id)) == batch.request_counts.completed


def test_keys_see_their_own_files_and_batches_only(stack):
    stack = stack()
    keys = [stack.key(name) for name in ("a", "b")]
    url = stack.router()
    mine, other = (client_of(url, key) for key in keys)
    batch = wait(mine, submit(mine, text_lines(2), TEXT))

    assert other.files.list().data == [] and other.batches.list().data == []
    for file_id in (batch.input_file_id, batch.output_file_id):
        for ask in (other.files.retrieve, other.files.content, other.files.delete):
            with pytest.raises(openai.NotFoundError):
                ask(file_id)
    for ask in (other.batches.retrieve, other.batches.cancel):
        with pytest.raises(openai.NotFoundError):
            ask(batch.id)
    with pytest.raises(openai.APIStatusError) as refused:
        other.batches.create(
            input_file_id=batch.input_file_id, endpoint=TEXT, completion_window="24h"
        )
    assert refused.value.status_code in (400, 404)
    assert {it.id for it in mine.files.list()} == {batch.input_file_id, batch.output_file_id}


@pytest.fixture
def bucket():
    """A server that speaks S3, and the environment that names it."""
    server = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    threaded = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    threaded.start()
    host, port = threaded.get_host_and_port()
    environment = dict(
        AWS_ENDPOINT_URL=f"http://{host}:{port}", AWS_REGION="us-east-1",
        AWS_ACCESS_KEY_ID="moto", AWS_SECRET_ACCESS_KEY="moto-secret-4711",
    )
    s3 = boto3.client(
        "s3", endpoint_url=environment["AWS_ENDPOINT_URL"], region_name="us-east-1",
        aws_access_key_id="moto", aws_secret_access_key="moto-secret-4711",
    )
    s3.create_bucket(Bucket="sconce")
    yield s3, environment
    threaded.stop()


def test_files_lie_in_a_bucket(stack, bucket):
    s3, environment = bucket
    stack = stack()
    client = client_of(stack.router("--no-auth", "--files", "s3://sconce/some/where", **environment))
    objects = lambda: [it["Key"] for it in s3.list_objects_v2(Bucket="sconce").get("Contents", [])]

    # More than one part of an upload.
    large = os.urandom(20 << 20)
    file = client.files.create(file=("large", large), purpose="user_data")
    assert client.files.content(file.id).content == large
    lines = text_lines(20)
    batch = wait(client, submit(client, lines, TEXT))
    assert batch.status == "completed", batch
    assert answered(results(client, batch.output_file_id)) == answers(client, lines)

    assert len(objects()) == 3 and all(key.startswith("some/where/") for key in objects())
    for file_id in (file.id, batch.input_file_id, batch.output_file_id):
        client.files.delete(file_id)
    assert objects() == []
    logs = "".join(log.read_text() for log in stack.directory.glob("*.log"))
    assert "moto-secret-4711" not in logs


@pytest.fixture
def database():
    """The URL of a database of a PostgreSQL server of the test's own."""
    if postgres.programs() is None:
        pytest.skip("PostgreSQL is not installed")
    with postgres.running() as url:
        yield url


def test_two_routers_share_files_and_batches(database, stack):
    stack = stack(step_us=2000)
    files = str(stack.directory / "shared")
    environment = dict(SCONCE_PEPPER=str(stack.directory / "pepper"))
    key = stack.key("a", database, **environment)
    one, two = (
        client_of(stack.router("--files", files, database=database, **environment), key)
        for _ in range(2)
    )
    lines = text_lines(100)

    batch = submit(one, lines, TEXT)
    assert two.files.content(batch.input_file_id).content == jsonl(lines)
    batch = wait(two, batch)

    assert batch.status == "completed", batch
    assert answered(results(two, batch.output_file_id)) == answers(one, lines)
    two.files.delete(batch.output_file_id)
    with pytest.raises(openai.NotFoundError):
        one.files.retrieve(batch.output_file_id)


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_every_line_is_answered_once_whoever_is_killed(database):
    if database == "postgres" and postgres.programs() is None:
        pytest.skip("PostgreSQL is not installed")
    run = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "batch_soak.py"), "--lines", "300", "--kill-every", "1.5",
         "--max-num-seqs", "4", "--step-us", "10000", "--database", database],
        env=dict(os.environ, SCONCE_BIN=os.path.abspath(BINARY)), capture_output=True, text=True,
        timeout=10 * PATIENCE,
    )

    print(run.stdout)
    assert run.returncode == 0, run.stdout + run.stderr[-4000:]


class Terminal:
    """`sconce batch` with a server, in a folder of its own."""

    def __init__(self, url, folder):
        self.folder = folder
        self.environment = dict(os.environ, SCONCE_URL=url, SCONCE_API_KEY="")

    def run(self, *words, status=0):
        done = subprocess.run(
            [os.path.abspath(BINARY), "batch", *words], cwd=self.folder, env=self.environment,
            capture_output=True, text=True, timeout=PATIENCE,
        )
        assert done.returncode == status, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *words):
        return json.loads(self.run(*words, "--output", "json").stdout)

    def lines(self, name):
        return parsed((self.folder / name).read_text())


def test_the_command_runs_a_file_and_writes_answers_and_failures(stack, tmp_path):
    url = stack().router("--no-auth")
    terminal = Terminal(url, tmp_path)
    lines = text_lines(20)
    (tmp_path / "in.jsonl").write_bytes(jsonl(lines))

    done = terminal.run("run", "in.jsonl")

    assert "20 of 20 answered" in done.stdout and "in.output.jsonl" in done.stdout
    assert "completed" in done.stderr
    assert answered(terminal.lines("in.output.jsonl")) == answers(client_of(url), lines)
    assert not (tmp_path / "in.errors.jsonl").exists()
    assert "is there already" in terminal.run("run", "in.jsonl", status=4).stderr

    lines[3]["body"]["max_tokens"] = -1
    (tmp_path / "some.jsonl").write_bytes(jsonl(lines))
    failed = terminal.run("run", "some.jsonl", "-o", "out.jsonl", "--errors", "bad.jsonl", status=8)
    assert "1 of 20 requests failed" in failed.stderr
    assert len(terminal.lines("out.jsonl")) == 19
    assert [it["custom_id"] for it in terminal.lines("bad.jsonl")] == ["line-3"]

    for it in lines:
        it["body"].update(model="another", max_tokens=6)
    (tmp_path / "model.jsonl").write_bytes(jsonl(lines))
    terminal.run("run", "model.jsonl", "--model", "hash")
    assert len(terminal.lines("model.output.jsonl")) == 20

    listed = terminal.json("list", "--limit", "2")
    assert len(listed) == 2 and listed[0]["status"] == "completed"
    assert terminal.json("status", listed[0]["id"])["request_counts"]["completed"] == 20
    assert "ID" in terminal.run("list").stdout
    terminal.run("status", "batch_none", status=3)
    (tmp_path / "no.jsonl").write_text("\nno\n")
    assert "line 2" in terminal.run("run", "no.jsonl", status=1).stderr


def test_a_bar_is_shown_on_a_terminal(stack, tmp_path):
    terminal = Terminal(stack(step_us=20_000, worker=["--max-num-seqs", "4"]).router("--no-auth"), tmp_path)
    (tmp_path / "in.jsonl").write_bytes(jsonl(text_lines(100)))
    master, slave = pty.openpty()
    child = subprocess.Popen(
        [os.path.abspath(BINARY), "batch", "run", "in.jsonl"], cwd=tmp_path, env={**terminal.environment, "TERM": "xterm"},
        stdin=slave, stdout=slave, stderr=slave,
    )
    os.close(slave)
    shown = b""
    # The terminal is hung up when its last user ends.
    with contextlib.suppress(OSError):
        while data := os.read(master, 65536):
            shown += data
    os.close(master)

    assert child.wait(PATIENCE) == 0, shown
    shown = shown.decode(errors="replace")
    seen = [int(it) for it in re.findall(r"(\d+)/100 ", shown)]
    assert seen == sorted(seen) and any(0 < it < 100 for it in seen), shown
    assert "in_progress" in shown and "100 of 100 answered" in shown


def test_an_interrupt_leaves_the_batch_running_and_says_how_to_come_back(stack, tmp_path):
    terminal = Terminal(stack(step_us=5000, worker=["--max-num-seqs", "4"]).router("--no-auth"), tmp_path)
    (tmp_path / "in.jsonl").write_bytes(jsonl(text_lines(400)))
    child = subprocess.Popen(
        [os.path.abspath(BINARY), "batch", "run", "in.jsonl", "-o", "out.jsonl"], cwd=tmp_path,
        env=terminal.environment, stderr=subprocess.PIPE, text=True,
    )
    began = child.stderr.readline()
    child.send_signal(signal.SIGINT)
    told = child.stderr.read()

    assert child.wait(PATIENCE) == 130, began + told
    resume = re.search(r"`sconce batch (run --resume \S+ -o out\.jsonl)`", told).group(1)
    terminal.run(*resume.split())
    assert len(answered(terminal.lines("out.jsonl"))) == 400


def test_an_interrupt_cancels_where_that_was_asked_for(stack, tmp_path):
    terminal = Terminal(stack(step_us=20_000, worker=["--max-num-seqs", "2"]).router("--no-auth"), tmp_path)
    (tmp_path / "in.jsonl").write_bytes(jsonl(text_lines(400)))
    child = subprocess.Popen(
        [os.path.abspath(BINARY), "batch", "run", "in.jsonl", "--cancel-on-interrupt"], cwd=tmp_path,
        env=terminal.environment, stderr=subprocess.PIPE, text=True,
    )
    child.stderr.readline()
    child.send_signal(signal.SIGINT)
    told = child.stderr.read()

    assert child.wait(PATIENCE) == 8, told
    assert "the batch is cancelled" in told
    assert terminal.json("list")[0]["status"] == "cancelled"


def test_an_upload_that_breaks_off_leaves_nothing(stack):
    import socket

    stack = stack()
    url = stack.router("--no-auth")
    port = int(url.rsplit(":", 1)[1])
    head = (
        "POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        "Content-Length: 100000000\r\n\r\n--b\r\nContent-Disposition: form-data; name=\"file\"; "
        "filename=\"a\"\r\n\r\n"
    ).encode()
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall(head + b"x" * (20 << 20))

    files = stack.directory / "sconce.files"
    deadline = time.monotonic() + PATIENCE
    while not files.exists() or list(files.iterdir()):
        assert time.monotonic() < deadline, list(files.iterdir())
        time.sleep(0.05)
    with urllib.request.urlopen(url + "/v1/files", timeout=PATIENCE) as reply:
        assert json.load(reply)["data"] == []
