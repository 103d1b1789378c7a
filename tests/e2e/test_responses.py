"""The Responses API by OpenAI's own SDK: its accumulator rebuilds every answer, and what is stored goes
on. A model of 135 million weights may write nonsense; that it fits is what counts."""

import json

import openai
import pydantic
import pytest

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 16}, "unit": {"enum": ["C", "F"]}},
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
    "strict": True,
}


class City(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    name: str = pydantic.Field(max_length=12)
    size: int = pydantic.Field(ge=0, le=99)


def ask(client, server, prompt="Say hello.", **more):
    more = {"temperature": 0, "max_output_tokens": 40, **more}
    return client.responses.create(model=server.model, input=prompt, **more)


def test_a_response_is_answered_and_stored(client, server):
    response = ask(client, server, instructions="Be brief.", metadata={"a": "b"})
    assert response.status in ("completed", "incomplete") and response.output_text
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert response.metadata == {"a": "b"} and response.instructions == "Be brief."

    assert client.responses.retrieve(response.id) == response
    items = list(client.responses.input_items.list(response.id))
    assert [item.content[0].text for item in items] == ["Say hello."]
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_the_accumulator_rebuilds_what_is_answered_whole(client, server):
    whole = ask(client, server, max_output_tokens=200, text={"format": {"type": "json_object"}})
    with client.responses.stream(
        model=server.model, input="Say hello.", temperature=0, max_output_tokens=200,
        text={"format": {"type": "json_object"}},
    ) as stream:
        events = list(stream)
    if whole.status == "completed":
        assert stream.get_final_response().output_text == whole.output_text
    deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    [done] = [event for event in events if event.type == "response.output_text.done"]
    assert deltas == done.text == whole.output_text
    assert [event.sequence_number for event in events] == list(range(len(events)))


def test_a_schema_is_parsed(client, server):
    parsed = client.responses.parse(
        model=server.model, input="Name a city.", text_format=City, temperature=0, max_output_tokens=200
    )
    assert isinstance(parsed.output_parsed, City)
    with client.responses.stream(
        model=server.model, input="Name a city.", text_format=City, temperature=0, max_output_tokens=200
    ) as stream:
        final = stream.get_final_response()
    assert final.output_parsed == parsed.output_parsed


def test_a_call_and_its_result_by_previous_response(client, server):
    called = ask(
        client, server, "What is the weather in Paris?", tools=[WEATHER], tool_choice="required",
        parallel_tool_calls=False, max_output_tokens=120,
    )
    [call] = called.output
    arguments = json.loads(call.arguments)
    assert call.name == "get_weather" and set(arguments) == {"city", "unit"}
    with client.responses.stream(
        model=server.model, input="What is the weather in Paris?", tools=[WEATHER], temperature=0,
        tool_choice="required", parallel_tool_calls=False, max_output_tokens=120,
    ) as stream:
        [streamed] = stream.get_final_response().output
    assert (streamed.name, streamed.arguments) == (call.name, call.arguments)

    result = [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}]
    answered = ask(client, server, result, previous_response_id=called.id, tools=[WEATHER], tool_choice="none")
    assert answered.output_text
    # The same without anything stored.
    question = [{"role": "user", "content": "What is the weather in Paris?"}]
    stateless = ask(
        client, server, question + [call.to_dict()] + result, tools=[WEATHER], tool_choice="none", store=False
    )
    assert stateless.output_text == answered.output_text
    assert stateless.usage.input_tokens == answered.usage.input_tokens


def test_tokens_are_counted(client, server):
    response = ask(client, server, max_output_tokens=1, store=False)
    counted = client.responses.input_tokens.count(model=server.model, input="Say hello.")
    assert counted.input_tokens == response.usage.input_tokens


def test_log_probabilities(client, server):
    response = ask(
        client, server, include=["message.output_text.logprobs"], top_logprobs=2, max_output_tokens=5
    )
    logprobs = response.output[0].content[0].logprobs
    assert len(logprobs) == 5 and all(len(token.top_logprobs) == 2 for token in logprobs)
    assert "".join(token.token for token in logprobs) == response.output_text


def test_what_is_not_stored_can_not_be_continued(client, server):
    first = ask(client, server, store=False, max_output_tokens=2)
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, server, previous_response_id=first.id)
    assert refused.value.code == "previous_response_not_found"


def test_in_the_background(client, server):
    begun = ask(client, server, background=True)
    assert begun.status == "queued"
    events = list(client.responses.retrieve(begun.id, stream=True))
    assert events[-1].type in ("response.completed", "response.incomplete")
    done = client.responses.retrieve(begun.id)
    assert done.output_text == ask(client, server, store=False).output_text == events[-1].response.output_text
    rest = list(client.responses.retrieve(begun.id, stream=True, starting_after=4))
    assert [event.sequence_number for event in rest] == list(range(5, len(events)))

    long = ask(client, server, background=True, max_output_tokens=2000, extra_body={"ignore_eos": True})
    assert client.responses.cancel(long.id).status == "cancelled"
    assert client.responses.retrieve(long.id).status == "cancelled"
