"""Every field that the SDKs know has a row in the pages about compatibility, and the server does with it
what its row says."""

import pathlib
import re
import typing

import pytest
from anthropic.types import message_create_params
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

from prompts import chat

DOCS = pathlib.Path(__file__).parents[2] / "docs"
OPENAI, RESPONSES = "openai-compatibility.md", "responses.md"
ANTHROPIC = "anthropic-compatibility.md"
MESSAGES = {"messages": chat("Hello!"), "max_tokens": 1}

# The types of an endpoint's fields; the page, and what it calls the endpoint; a request.
DOORS = {
    "/v1/chat/completions": (
        chat_create_params.CompletionCreateParamsNonStreaming,
        chat_create_params.CompletionCreateParamsStreaming, OPENAI, ("chat", "both", "all"), MESSAGES,
    ),
    "/v1/completions": (
        completion_create_params.CompletionCreateParamsNonStreaming,
        completion_create_params.CompletionCreateParamsStreaming, OPENAI,
        ("completions", "both", "all"), {"prompt": "Hello!", "max_tokens": 1},
    ),
    "/v1/embeddings": (
        embedding_create_params.EmbeddingCreateParams, embedding_create_params.EmbeddingCreateParams,
        OPENAI, ("embeddings", "all"), {"input": "Hello!"},
    ),
    "/v1/responses": (
        response_create_params.ResponseCreateParamsNonStreaming,
        response_create_params.ResponseCreateParamsStreaming, RESPONSES, ("responses", "both"),
        {"input": "Hello!", "max_output_tokens": 1, "store": False},
    ),
    "/v1/messages": (
        message_create_params.MessageCreateParamsNonStreaming,
        message_create_params.MessageCreateParamsStreaming, ANTHROPIC, ("messages", "both"), MESSAGES,
    ),
}


def rows(page, names):
    """What is done with the fields of an endpoint."""
    found = {}
    for line in (DOCS / page).read_text().splitlines():
        if match := re.match(r"\| `(\w+)` \| ([^|]+) \| ([^|]+) \|", line):
            doors = [door.strip() for door in match[2].split(",")]
            if any(door in names for door in doors):
                found[match[1]] = match[3].strip()
    return found


@pytest.mark.parametrize("path", DOORS)
def test_every_field_of_the_sdk_has_a_row(path):
    whole, streamed, page, names, _ = DOORS[path]
    known = set(typing.get_type_hints(whole)) | set(typing.get_type_hints(streamed))
    missing = known - set(rows(page, names))
    assert not missing


@pytest.mark.parametrize("path", [path for path in DOORS if path != "/v1/embeddings"])
def test_what_a_row_refuses_is_refused_by_name(server, path):
    *_, page, names, request = DOORS[path]
    refused = [name for name, treatment in rows(page, names).items() if treatment.startswith("refused")]
    assert refused
    for name in refused:
        body = {"model": server.model, **request, name: {"something": ["else"]}}
        status, _, reply = server.post(path, body)
        assert status == 400, (name, reply)
        if path == "/v1/messages":
            assert f"`{name}`" in reply["error"]["message"]
        else:
            assert (reply["error"]["param"], reply["error"]["code"]) == (name, "unsupported_parameter")


@pytest.mark.parametrize("path", [path for path in DOORS if path != "/v1/embeddings"])
def test_null_is_the_same_as_nothing(server, path):
    *_, page, names, request = DOORS[path]
    nulls = {name: None for name in rows(page, names) if name not in request}
    status, _, reply = server.post(path, {**nulls, "model": server.model, **request})
    assert status == 200, reply
