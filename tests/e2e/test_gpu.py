"""The server with its model on a GPU: the stand-in for CUDA's driver, which runs our kernels on the CPU.

SCONCE_CUDA_STAND_IN is the folder of its libraries; `tests/run.sh` sets it where the binary has kernels.
"""

import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from conftest import BINARY, PATIENCE
from test_fleet import until

STAND_IN = os.environ.get("SCONCE_CUDA_STAND_IN")
ROOT = pathlib.Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(STAND_IN is None, reason="the binary has no GPU kernels")

PROMPTS = ["the moon and", "winter in", "def describe", "0 1 2", "a small boat in the north " * 9]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tiny random model."""
    folder = tmp_path_factory.mktemp("gpu") / "tiny"
    subprocess.run([sys.executable, ROOT / "tests/tiny_model.py", folder], check=True)
    return str(folder)


@pytest.fixture
def on_gpu(start, monkeypatch):
    """Starts a server whose worker finds the stand-in; faults are the stand-in's."""

    def on_gpu(model, *worker, faults=None):
        monkeypatch.setenv("LD_LIBRARY_PATH", STAND_IN)
        if faults:
            monkeypatch.setenv("STAND_IN_FAIL", faults)
        flags = ["--device", "cuda", "--num-blocks", "256", "--max-num-seqs", "8", *worker]
        started = start(*flags, model=model)
        monkeypatch.delenv("LD_LIBRARY_PATH")
        monkeypatch.delenv("STAND_IN_FAIL", raising=False)
        return started

    return on_gpu


def complete(server, prompt, **fields):
    body = {"model": server.model, "prompt": prompt, "max_tokens": 24, "temperature": 0, **fields}
    status, _, reply = server.post("/v1/completions", body)
    assert status == 200, reply
    return reply["choices"][0]


def texts(server, requests):
    """The answers to all requests, sent at once."""
    with concurrent.futures.ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(lambda fields: complete(server, **fields)["text"], requests))


def test_answers_are_those_of_the_processor(start, on_gpu, tiny):
    requests = [dict(prompt=prompt) for prompt in PROMPTS]
    requests += [
        dict(prompt=PROMPTS[0], temperature=1.3, seed=7),
        dict(prompt=PROMPTS[1], temperature=0.9, top_p=0.8, seed=8),
        dict(prompt=PROMPTS[2], temperature=1.0, top_k=5, min_p=0.05, seed=9),
        # What the device leaves to the processor.
        dict(prompt=PROMPTS[3], frequency_penalty=0.8, presence_penalty=0.3),
        dict(prompt=PROMPTS[0], logprobs=3),
        dict(prompt=PROMPTS[1], regex="[a-f]{3,9}"),
        dict(prompt=PROMPTS[2], bad_words=["the"]),
        dict(prompt=PROMPTS[3], logit_bias={"70": 8, "80": -100}, min_tokens=20),
    ]
    # Drafts guess what is sampled anyway, and the GPU has none: without, the two take equal steps.
    processor = start("--exact", "--device", "cpu", "--speculation", "off", model=tiny)
    gpu = on_gpu(tiny, "--exact")

    assert texts(gpu, requests) == texts(processor, requests)

    scores = [complete(server, PROMPTS[0], logprobs=2)["logprobs"] for server in (gpu, processor)]
    for given, expected in zip(*(score["token_logprobs"] for score in scores)):
        assert given == pytest.approx(expected, abs=1e-4)


def test_sixteen_bits_answer_and_are_the_same_twice(on_gpu, tiny):
    gpu = on_gpu(tiny, "--dtype", "bf16", "--kv-cache-dtype", "fp8")
    requests = [dict(prompt=prompt, n=2) for prompt in PROMPTS]

    first = texts(gpu, requests)
    assert first == texts(gpu, requests)
    assert all(first)


def test_a_gpu_that_faults_ends_the_worker_and_nothing_else(on_gpu, tiny):
    # Each start warms up; then a launch of this kernel is a few steps into the first answers.
    gpu = on_gpu(tiny, "--exact", faults="kernel=choose_tokens:60:700")
    body = {"model": gpu.model, "prompt": PROMPTS[0], "max_tokens": 400, "temperature": 0}
    status, _, reply = gpu.post("/v1/completions", {**body, "ignore_eos": True})

    # Whether the answer was taken up by the worker that follows, or failed, it is whole or an error.
    assert status == 200 and reply["usage"]["completion_tokens"] == 400 or status >= 500
    gpu.wait_for_log("CUDA_ERROR_ILLEGAL_ADDRESS")


def worker(*flags, environment=None):
    """What a worker that cannot start prints."""
    done = subprocess.run(
        [BINARY, "worker", "--listen", "127.0.0.1:0", *flags],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, **(environment or {})},
    )
    assert done.returncode != 0
    return done.stderr


def test_what_is_missing_is_named(tiny):
    assert "no CUDA driver found" in worker("--model", tiny, "--device", "cuda")
    without_gpus = {"LD_LIBRARY_PATH": STAND_IN, "STAND_IN_DEVICES": "0"}
    message = worker("--model", tiny, "--device", "cuda:1", environment=without_gpus)
    assert "there is no GPU 1: the driver finds 0" in message
    small = {"LD_LIBRARY_PATH": STAND_IN, "STAND_IN_MEMORY": str(200 << 20)}
    message = worker("--model", tiny, "--device", "cuda", environment=small)
    assert "bytes" in message and "memory" in message.lower()


def test_without_a_gpu_the_processor_answers_and_the_log_says_so(start, tiny):
    server = start(model=tiny)

    assert complete(server, PROMPTS[0])["text"]
    assert "no CUDA driver found, using CPU" in server.stderr()


def plan(tiny, *words, status=0, memory=None):
    environment = {"LD_LIBRARY_PATH": STAND_IN}
    if memory:
        environment["STAND_IN_MEMORY"] = str(memory)
    done = subprocess.run(
        [BINARY, "plan", tiny, *words], capture_output=True, text=True, timeout=PATIENCE,
        env={**os.environ, **environment},
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout if status == 0 else done.stderr


def test_a_plan_counts_the_memory_of_the_gpu(on_gpu, tiny):
    flags = ["--output", "json", "--", "--device", "cuda", "--max-num-seqs", "8"]
    planned = json.loads(plan(tiny, *flags))
    assert planned["device"] == "cuda:0"
    numbers = planned["plan"]
    assert numbers["device_free_bytes"] <= numbers["device_total_bytes"] == 2 << 30
    assert numbers["needed_bytes"] <= numbers["available_bytes"] < 0.9 * (2 << 30)
    assert numbers["flags"] == []
    server = on_gpu(tiny)
    [weights] = re.findall(r"weight_bytes=(\d+)", re.sub("\x1b\\[[0-9;]*m", "", server.stderr()))
    assert 0.8 <= numbers["weight_bytes"] / int(weights) <= 1.25

    asked = ["--concurrency", "2", "--context", "128", *flags[:3], "--device", "cuda"]
    asked = json.loads(plan(tiny, *asked))
    assert "--kv-cache-bytes" in asked["worker_flags"] and asked["plan"]["concurrency"] == 2
    small = plan(tiny, "--", "--device", "cuda", status=7, memory=400 << 20)
    assert "does not fit" in small and "MiB" in small


def test_replicas_share_the_memory_of_a_gpu(tiny, tmp_path):
    environment = {
        **os.environ, "LD_LIBRARY_PATH": STAND_IN, "XDG_RUNTIME_DIR": str(tmp_path),
        "SCONCE_HOME": str(tmp_path / "store"),
    }

    def run(*words, status=0):
        done = subprocess.run(
            [BINARY, *words], capture_output=True, text=True, timeout=PATIENCE, env=environment
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    flags = ["--port", "0", "--no-auth", "--", "--device", "cuda", "--max-num-seqs", "8"]
    run("up", "-d", tiny, "--served-model-name", "tiny", "--replicas", "2", *flags)
    try:
        def replicas():
            found = json.loads(run("status", "--output", "json"))["replicas"]
            return [it for it in found if it["state"] == "ready"]

        until(lambda: len(replicas()) == 2)
        for replica in replicas():
            command = pathlib.Path(f"/proc/{replica['pid']}/cmdline").read_bytes().split(b"\0")
            # Each has a cache of its part's size.
            size = int(command[command.index(b"--kv-cache-bytes") + 1])
            assert size < (1 << 30)
        # There is no room for a third.
        run("scale", "tiny", "--min", "3", "--max", "3", status=7)
    finally:
        run("stop", "--all")
