"""Clients that hang up, workers that die or freeze, and a server that is asked to stop."""

import os
import signal
import socket
import time

import openai
import pytest

from conftest import PATIENCE
from prompts import chat


def open_stream(server, max_tokens=4000):
    """A raw streaming request that has received its first content."""
    import json

    body = json.dumps(
        dict(
            model=server.model, messages=chat("Tell a story."), stream=True, max_tokens=max_tokens,
            temperature=0, ignore_eos=True,
        )
    ).encode()
    connection = socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])), PATIENCE)
    connection.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nAuthorization: Bearer " + server.key.encode() +
        b"\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body
    )
    received = b""
    while received.count(b"data: ") < 3:
        received += connection.recv(65536)
    return connection, received


def read_to_end(connection):
    received = b""
    while data := connection.recv(65536):
        received += data
    return received


def client_of(server, **options):
    return openai.OpenAI(
        base_url=server.url + "/v1", api_key=server.key, timeout=PATIENCE, **options
    )


def test_a_client_that_hangs_up_frees_its_blocks(start):
    server = start()
    connections = [open_stream(server)[0] for _ in range(4)]
    assert server.metric("sconce_num_requests_running") >= 1

    for connection in connections:
        connection.close()

    server.wait_for_metric("sconce_num_requests_running", 0)
    server.wait_for_metric("sconce_kv_cache_usage_perc", 0)
    assert server.metric("sconce_cancel_to_free_seconds_count") == 4


def test_a_killed_worker_ends_streams_with_an_error_and_comes_back(start):
    server = start()
    connection, _ = open_stream(server)
    (worker,) = server.workers()

    os.kill(worker, signal.SIGKILL)
    rest = read_to_end(connection)

    assert b'data: {"error":' in rest and b"worker_lost" in rest
    assert b"[DONE]" not in rest
    status, headers, body = server.post(
        "/v1/chat/completions", dict(model=server.model, messages=chat("hi"), max_tokens=1)
    )
    if status != 200:
        assert status == 503 and 0 < float(headers["retry-after"]) <= 60, body
    reply = client_of(server, max_retries=20).chat.completions.create(
        model=server.model, messages=chat("hi"), max_tokens=2, temperature=0
    )
    assert reply.choices[0].finish_reason
    assert server.workers() != [worker]


def test_a_frozen_worker_is_replaced_and_what_comes_meanwhile_waits(start):
    server = start()
    (worker,) = server.workers()

    os.kill(worker, signal.SIGSTOP)
    began = time.monotonic()
    while server.workers() in ([worker], []):
        assert time.monotonic() - began < PATIENCE
        time.sleep(0.05)
    status, _, body = server.post(
        "/v1/completions", dict(model=server.model, prompt="x", max_tokens=1)
    )
    assert status == 200, body


def test_stopping_lets_a_running_stream_finish(start):
    server = start()
    connection, _ = open_stream(server, max_tokens=40)

    server.process.send_signal(signal.SIGTERM)
    rest = read_to_end(connection)

    assert b"[DONE]" in rest and b'"finish_reason":"length"' in rest.replace(b" ", b"")
    assert server.process.wait(PATIENCE) == 0


def test_prompts_and_keys_are_in_no_log(start):
    server = start()
    canary = "xylograph-quixotic-7731"
    server.post("/v1/chat/completions", dict(model=server.model, messages=chat(canary), max_tokens=2))
    server.post("/v1/chat/completions", dict(model=server.model, messages=chat(canary), max_tokens=-1))
    metrics = server.get("/metrics", raw=True)

    log = server.stderr()

    secret = server.key[len("sk-sconce-") + 13 :]
    assert canary not in log + metrics
    assert secret not in log + metrics


def test_keep_alives_are_comments_only(server):
    connection, received = open_stream(server, max_tokens=8)
    everything = received + read_to_end(connection)
    lines = everything.split(b"\r\n\r\n", 1)[1].replace(b"\r\n", b"\n").split(b"\n")

    fields = {line.split(b":", 1)[0] for line in lines if b":" in line and line[:1].isalpha()}
    assert fields == {b"data"}
