"""Structured output with the real model: what is finished is what was asked for."""

import concurrent.futures
import json
import os
import pathlib
import time

import jsonschema
import pydantic
import pytest

from prompts import chat

SUITE = os.environ.get("SCONCE_SCHEMA_SUITE")


class Person(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=12)
    age: int = pydantic.Field(ge=0, le=120)
    pets: list[str] = pydantic.Field(max_length=2)


def test_the_sdk_parses_what_the_model_wrote(client, server):
    reply = client.chat.completions.parse(
        model=server.model,
        messages=chat("Invent a person."),
        response_format=Person,
        max_tokens=400,
        temperature=0,
    )
    person = reply.choices[0].message.parsed
    assert isinstance(person, Person) and len(person.name) <= 12


def test_a_streamed_object_equals_the_whole_one(client, server):
    schema = {"type": "object", "properties": {"color": {"enum": ["red", "blue"]}},
              "required": ["color"], "additionalProperties": False}
    request = dict(
        model=server.model, messages=chat("Which color?"), temperature=0, max_tokens=40,
        response_format={"type": "json_schema", "json_schema": {"name": "color", "schema": schema}},
    )
    whole = client.chat.completions.create(**request).choices[0]
    parts = [chunk.choices[0].delta.content or ""
             for chunk in client.chat.completions.create(**request, stream=True)]
    assert "".join(parts) == whole.message.content
    assert json.loads(whole.message.content)["color"] in ("red", "blue")
    assert whole.finish_reason == "stop"


@pytest.mark.parametrize("outputs, holds", [
    ({"choice": ["yes", "no"]}, lambda text: text in ("yes", "no")),
    ({"regex": "[0-9]{4}-[0-9]{2}"}, lambda text: len(text) == 7 and text[4] == "-"),
    ({"grammar": 'start: "<" /[a-z]{1,8}/ ">"'}, lambda text: text[0] + text[-1] == "<>"),
])
def test_other_texts_can_be_prescribed(client, server, outputs, holds):
    for n in (1, 4):
        reply = client.chat.completions.create(
            model=server.model, messages=chat("Well?"), n=n, temperature=1, max_tokens=40, seed=3,
            extra_body={"structured_outputs": outputs},
        )
        assert len(reply.choices) == n
        for choice in reply.choices:
            assert choice.finish_reason == "stop" and holds(choice.message.content)


def test_text_completions_take_a_format_too(client, server):
    reply = client.completions.create(
        model=server.model, prompt="A number:", max_tokens=30, temperature=0,
        extra_body={"structured_outputs": {"regex": " [1-9][0-9]{0,3}"}},
    )
    assert 0 < int(reply.choices[0].text) < 10_000


@pytest.mark.parametrize("outputs", [
    {"grammar": "start: " + "(" * 60_000 + '"a"' + ")" * 60_000},
    {"grammar": "start: a0\n" + "".join(f"a{i}: a{i + 1}\n" for i in range(5000)) + 'a5000: "b"'},
    {"regex": "(a+)+$"},
    {"regex": "("},
])
def test_what_would_hurt_is_refused_and_hurts_nobody(server, outputs):
    body = {"model": server.model, "messages": chat("hi"), "structured_outputs": outputs}
    status, _, reply = server.post("/v1/chat/completions", body)
    assert (status, reply["error"]["code"]) == (400, "invalid_grammar")
    assert reply["error"]["param"] == "structured_outputs"
    assert len(server.workers()) == 1
    assert server.post("/v1/completions", {"model": server.model, "prompt": "a", "max_tokens": 1})[0] == 200


def schemas():
    """The schemas of the JSON Schema test suite, each once, with its draft's validator."""
    drafts = {"draft2020-12": jsonschema.Draft202012Validator, "draft7": jsonschema.Draft7Validator}
    found = {}
    for draft, validator in drafts.items():
        for path in sorted((pathlib.Path(SUITE) / draft).glob("*.json")):
            for group in json.loads(path.read_text()):
                schema = group["schema"]
                if isinstance(schema, dict):
                    found.setdefault(json.dumps(schema), (schema, validator))
    return list(found.values())


@pytest.mark.skipif(SUITE is None, reason="SCONCE_SCHEMA_SUITE is not set")
def test_every_text_that_is_finished_is_of_its_schema(server):
    """A schema is followed, or it is refused; there is nothing between."""
    def ask(schema):
        return server.post("/v1/chat/completions", {
            "model": server.model, "messages": chat("Write some JSON."), "seed": 7,
            "max_tokens": 48, "temperature": 1,
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        })

    asked = schemas()
    begun = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(ask, [schema for schema, _ in asked]))
    tally = {"refused": 0, "cut": 0, "valid": 0}
    wrong = []
    for (schema, validator), (status, _, reply) in zip(asked, replies):
        if status == 400:
            assert reply["error"]["param"].startswith("response_format"), reply
            tally["refused"] += 1
            continue
        assert status == 200, (schema, reply)
        choice = reply["choices"][0]
        if choice["finish_reason"] == "length":
            tally["cut"] += 1
            continue
        text = choice["message"]["content"]
        try:
            validator(schema).validate(json.loads(text))
            tally["valid"] += 1
        except (ValueError, jsonschema.ValidationError) as error:
            wrong.append((schema, text, str(error)[:200]))
    print(f"{len(asked)} schemas in {time.monotonic() - begun:.0f} s: {tally}, {len(wrong)} wrong")
    assert not wrong, wrong[:10]
    assert len(asked) >= 500 and tally["valid"] >= 150
