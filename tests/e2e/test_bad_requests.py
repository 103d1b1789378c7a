"""Wrong requests: each is a 4xx in OpenAI's error shape that names its parameter."""

import pytest

from prompts import chat

CHAT = [
    ({"messages": []}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y"}}]}]},
     "messages[0].content[0]"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 1.5}, "top_p"),
    ({"top_p": -1}, "top_p"),
    ({"frequency_penalty": 3}, "frequency_penalty"),
    ({"presence_penalty": -3}, "presence_penalty"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 2**32 + 4}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"n": 0}, "n"),
    ({"n": 10**6}, "n"),
    ({"n": -1}, "n"),
    ({"n": 2**63}, "n"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stop": [""]}, "stop"),
    ({"stop": "x" * 100_000}, "stop"),
    ({"logprobs": "yes"}, "logprobs"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 10**9}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"99999999": 1}}, "logit_bias"),
    ({"logit_bias": {"1": 101}}, "logit_bias"),
    ({"seed": 2**64}, "seed"),
    ({"seed": 1.5}, "seed"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"functions": [{"name": "a b"}]}, "functions[0].name"),
    ({"audio": {"voice": "x", "format": "wav"}}, "audio"),
    ({"web_search_options": {}}, "web_search_options"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": 1.1}, "min_p"),
    ({"typical_p": 0}, "typical_p"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"min_tokens": 10, "max_tokens": 5}, "min_tokens"),
    ({"stop_token_ids": [10**9]}, "stop_token_ids"),
    ({"ignore_eos": "no"}, "ignore_eos"),
    ({"model": None}, "model"),
    ({"model": 7}, "model"),
]

COMPLETIONS = [
    ({"prompt": []}, "prompt"),
    ({"prompt": [""] * 10_000}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": [10**9]}, "prompt"),
    ({"prompt": {"text": "x"}}, "prompt"),
    ({"logprobs": 100}, "logprobs"),
    ({"best_of": 100}, "best_of"),
    ({"echo": "x"}, "echo"),
    ({"suffix": "x"}, "suffix"),
]


def check(server, path, request, param):
    status, headers, body = server.post(path, request)
    assert 400 <= status < 500, body
    assert body["error"]["param"] is not None, body
    assert body["error"]["param"].startswith(param), body
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    assert headers["x-request-id"]


@pytest.mark.parametrize("change,param", CHAT, ids=lambda value: str(value)[:48])
def test_chat(server, change, param):
    request = {"model": server.model, "messages": chat("hi"), "max_tokens": 1, **change}
    check(server, "/v1/chat/completions", request, param)


@pytest.mark.parametrize("change,param", COMPLETIONS, ids=lambda value: str(value)[:48])
def test_completions(server, change, param):
    request = {"model": server.model, "prompt": "hi", "max_tokens": 1, **change}
    check(server, "/v1/completions", request, param)


RAW = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'{"model": "x", "messages": [{"role": "user", "content": "\xff\xfe"}]}',
    b'{"model": "x", "messages": [{"role": "user", "content": "\\ud800"}]}',
    b'{"a":' * 100_000,
    b'{"model": "x", "temperature": 1e999, "messages": []}',
    b'{"model": "x", "temperature": NaN, "messages": []}',
]


@pytest.mark.parametrize("body", RAW, ids=lambda body: str(body[:24]))
def test_what_is_not_a_request_is_400(server, body):
    status, _, answer = server.post("/v1/chat/completions", body)

    assert status == 400
    assert set(answer["error"]) == {"message", "type", "param", "code"}


def test_other_statuses(server):
    status, _, _ = server.post("/v1/nothing", {})
    assert status == 404
    status, headers, _ = server.post("/v1/models", {})
    assert status == 405 and "GET" in headers["allow"]
    status, _, _ = server.post("/v1/chat/completions", b"x" * (5 << 20))
    assert status == 413
    status, _, _ = server.post("/v1/chat/completions", {}, {"Content-Type": "text/plain"})
    assert status == 415


def test_an_overlong_prompt_says_how_long_and_what_fits(server):
    limit = server.get("/v1/models")["data"][0]["max_model_len"]
    status, _, body = server.post(
        "/v1/chat/completions", {"model": server.model, "messages": chat("word " * (limit + 10))}
    )

    assert status == 400
    assert body["error"]["code"] == "context_length_exceeded"
    assert body["error"]["param"] == "messages"
    assert str(limit) in body["error"]["message"]


def test_the_server_is_as_well_as_before(server):
    status, _, _ = server.post(
        "/v1/chat/completions", {"model": server.model, "messages": chat("hi"), "max_tokens": 1}
    )
    assert status == 200
