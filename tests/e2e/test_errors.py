"""What the SDK raises, and what it retries."""

import threading

import openai
import pytest

from conftest import PATIENCE
from prompts import chat


def test_a_wrong_key_is_an_authentication_error(server):
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="sk-wrong", max_retries=0)

    with pytest.raises(openai.AuthenticationError) as refused:
        client.models.list()

    assert refused.value.request_id


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="nope", messages=chat("hi"))

    assert refused.value.code == "model_not_found"


def test_a_bad_parameter_is_a_bad_request_that_names_it(client, server):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=server.model, messages=chat("hi"), temperature=3)

    assert refused.value.param == "temperature"


def test_a_full_queue_is_429_and_the_sdk_retries_until_there_is_room(start):
    server = start("--max-num-seqs", "1", "--max-queue", "1")
    slow = dict(
        model=server.model, messages=chat("Write a long story."), max_tokens=400, temperature=0,
        extra_body={"ignore_eos": True}, stream=True,
    )
    client = openai.OpenAI(
        base_url=server.url + "/v1", api_key=server.key, max_retries=0, timeout=PATIENCE
    )
    running = client.chat.completions.create(**slow)
    next(iter(running))
    waiting = threading.Thread(
        target=lambda: list(client.chat.completions.create(**{**slow, "max_tokens": 2}))
    )
    waiting.start()
    server.wait_for_metric("sconce_num_requests_waiting", 1)

    with pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(model=server.model, messages=chat("hi"), max_tokens=1)
    assert 0 < float(refused.value.response.headers["retry-after"]) <= 60
    assert refused.value.code == "queue_full"

    releaser = threading.Timer(0.5, running.close)
    releaser.start()
    reply = client.with_options(max_retries=8).chat.completions.create(
        model=server.model, messages=chat("hi"), max_tokens=1
    )
    assert reply.choices[0].finish_reason
    waiting.join(PATIENCE)
