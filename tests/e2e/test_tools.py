"""Tools with the real model. A model of 135 million weights may call badly, but what is forced is valid."""

import json

import pytest

from prompts import chat

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 16}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}},
            "required": ["a"],
            "additionalProperties": False,
        },
    },
}


def is_valid(call):
    arguments = json.loads(call.function.arguments)
    if call.function.name == "add":
        return set(arguments) == {"a"} and 0 <= arguments["a"] <= 99
    return set(arguments) == {"city", "unit"} and arguments["unit"] in "CF"


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_a_required_call_is_valid(client, server, temperature):
    reply = client.chat.completions.create(
        model=server.model, messages=chat("What is the weather in Paris?"), tools=[WEATHER, ADD],
        tool_choice="required", parallel_tool_calls=False, temperature=temperature, seed=1,
        max_tokens=120, n=3,
    )
    for choice in reply.choices:
        assert choice.finish_reason == "tool_calls" and not choice.message.content
        assert len(choice.message.tool_calls) == 1
        assert is_valid(choice.message.tool_calls[0])


def test_a_named_function_is_called(client, server):
    reply = client.chat.completions.create(
        model=server.model, messages=chat("What is the weather in Paris?"), tools=[WEATHER, ADD],
        tool_choice={"type": "function", "function": {"name": "add"}}, temperature=0, max_tokens=80,
    )
    [call] = reply.choices[0].message.tool_calls
    assert call.function.name == "add" and is_valid(call)


def test_the_stream_helper_rebuilds_the_call(client, server):
    request = dict(
        model=server.model, messages=chat("What is the weather in Rome?"), tools=[WEATHER],
        tool_choice="required", parallel_tool_calls=False, temperature=0, max_tokens=120,
    )
    whole = client.chat.completions.create(**request).choices[0].message.tool_calls[0]
    with client.chat.completions.stream(**request) as stream:
        events = list(stream)
        final = stream.get_final_completion().choices[0]
    [call] = final.message.tool_calls
    assert final.finish_reason == "tool_calls"
    assert (call.function.name, call.function.arguments) == (
        whole.function.name, whole.function.arguments)
    assert any(event.type == "tool_calls.function.arguments.delta" for event in events)


def test_a_result_goes_back_to_the_model(client, server):
    messages = chat("What is the weather in Oslo?")
    first = client.chat.completions.create(
        model=server.model, messages=messages, tools=[WEATHER], tool_choice="required",
        parallel_tool_calls=False, temperature=0, max_tokens=120,
    ).choices[0].message
    messages += [first, {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "snow"}]
    second = client.chat.completions.create(
        model=server.model, messages=messages, tools=[WEATHER], tool_choice="none", temperature=0,
        max_tokens=20,
    ).choices[0]
    assert second.message.content and second.message.tool_calls is None


def test_an_answer_may_be_prescribed_where_tools_are_at_hand(client, server):
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"],
              "additionalProperties": False}
    reply = client.chat.completions.create(
        model=server.model, messages=chat("Fine?"), tools=[ADD], temperature=0, max_tokens=60,
        response_format={"type": "json_schema", "json_schema": {"name": "ok", "schema": schema}},
    ).choices[0]
    if reply.finish_reason == "tool_calls":
        assert all(is_valid(call) for call in reply.message.tool_calls)
    elif reply.finish_reason == "stop":
        assert set(json.loads(reply.message.content)) == {"ok"}


def test_the_last_message_can_be_left_open(client, server):
    messages = chat("Count.") + [{"role": "assistant", "content": "1, 2, 3,"}]
    reply = client.chat.completions.create(
        model=server.model, messages=messages, temperature=0, max_tokens=6,
        extra_body={"continue_final_message": True},
    )
    body = {"model": server.model, "messages": messages, "continue_final_message": True}
    status, _, rendered = server.post("/v1/chat/completions/render", body)
    assert status == 200 and rendered["prompt"].endswith("1, 2, 3,")
    assert reply.usage.prompt_tokens == len(rendered["prompt_token_ids"])
