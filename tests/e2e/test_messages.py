"""The Anthropic Python SDK: messages, streamed and not, tools, counts and errors."""

import pytest

from conftest import PATIENCE

anthropic = pytest.importorskip("anthropic")

GREEDY = {"temperature": 0}
WEATHER = {
    "name": "weather",
    "description": "Tells the weather in a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "days": {"enum": [1, 7]}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
}
TIME = {
    "name": "time",
    "input_schema": {"type": "object", "properties": {}, "additionalProperties": False},
}


def user(text):
    return [{"role": "user", "content": text}]


@pytest.fixture
def messages(server):
    """The SDK's client, and what every request here has."""
    client = anthropic.Anthropic(
        base_url=server.url, api_key=server.key, timeout=PATIENCE, max_retries=0
    )

    class Messages:
        def __init__(self):
            self.client = client

        def arguments(self, content, **options):
            content = user(content) if isinstance(content, str) else content
            given = dict(model=server.model, max_tokens=24, messages=content, extra_body=GREEDY)
            return given | options

        def create(self, content, **options):
            return client.messages.create(**self.arguments(content, **options))

        def stream(self, content, **options):
            return client.messages.stream(**self.arguments(content, **options))

        def count(self, content, **options):
            content = user(content) if isinstance(content, str) else content
            return client.messages.count_tokens(model=server.model, messages=content, **options)

    return Messages()


def test_a_message_has_text_usage_and_a_stop_reason(messages, server):
    message = messages.create("Say hello.", system="You are brief.")

    assert message.id.startswith("msg_") and message.type == "message"
    assert message.role == "assistant" and message.model == server.model
    assert message.content[0].type == "text" and message.content[0].text
    assert message.stop_reason in ("end_turn", "max_tokens") and message.stop_sequence is None
    assert 0 < message.usage.output_tokens <= 24
    assert message.usage.input_tokens + message.usage.cache_read_input_tokens > 10
    assert message._request_id


def test_a_message_is_the_chat_completion_of_the_same_conversation(messages, client, server):
    message = messages.create("Count to five.", system="You count.")

    chat = client.chat.completions.create(
        model=server.model,
        messages=[{"role": "system", "content": "You count."}, *user("Count to five.")],
        max_tokens=24,
        temperature=0,
    )

    assert message.content[0].text == chat.choices[0].message.content
    cached, usage = message.usage.cache_read_input_tokens, message.usage
    assert usage.input_tokens + cached == chat.usage.prompt_tokens
    assert usage.output_tokens == chat.usage.completion_tokens


def test_a_stream_accumulates_to_the_whole_message(messages):
    whole = messages.create("Name three fruits.")

    with messages.stream("Name three fruits.") as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()

    assert final.content[0].text == whole.content[0].text
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
    with messages.stream("Name three fruits.") as stream:
        assert "".join(stream.text_stream) == whole.content[0].text


def test_raw_events_come_in_their_order(messages):
    events = list(messages.create("Say hello.", stream=True))

    kinds = [event.type for event in events if event.type != "content_block_delta"]
    assert kinds == [
        "message_start",
        "content_block_start",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0].message.content == []
    assert events[-2].usage.output_tokens > 0


@pytest.mark.parametrize("streamed", [False, True])
def test_the_stop_sequence_that_matched_is_named(messages, streamed):
    def ask(**options):
        if not streamed:
            return messages.create("Count from one to ten: 1, 2, 3", max_tokens=40, **options)
        with messages.stream("Count from one to ten: 1, 2, 3", max_tokens=40, **options) as stream:
            return stream.get_final_message()

    text = ask().content[0].text
    middle = text[len(text) // 2 :][:3]
    stopped = ask(stop_sequences=["never said", middle])

    assert stopped.stop_reason == "stop_sequence" and stopped.stop_sequence == middle
    assert stopped.content[0].text == text[: text.index(middle)]


def test_an_assistants_last_turn_is_continued(messages, server):
    begun = [*user("What is the capital of France?"), {"role": "assistant", "content": "The capital"}]

    message = messages.create(begun, max_tokens=8)

    chat = server.post(
        "/v1/chat/completions",
        {
            "model": server.model,
            "messages": begun,
            "continue_final_message": True,
            "max_tokens": 8,
            "temperature": 0,
        },
    )[2]
    assert message.content[0].text == chat["choices"][0]["message"]["content"]
    assert not message.content[0].text.startswith("The capital")


@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_is_called_and_its_result_is_read(messages, streamed):
    question = "How is the weather in Paris?"
    options = dict(
        tools=[WEATHER, TIME], tool_choice={"type": "tool", "name": "weather"}, max_tokens=100
    )
    if streamed:
        with messages.stream(question, **options) as stream:
            called = stream.get_final_message()
    else:
        called = messages.create(question, **options)

    assert called.stop_reason == "tool_use"
    call = called.content[-1]
    assert call.type == "tool_use" and call.name == "weather" and call.id.startswith("toolu_")
    assert set(call.input) == {"city", "days"} and call.input["days"] in (1, 7)

    result = {"type": "tool_result", "tool_use_id": call.id, "content": "Sunny, 25 degrees."}
    answer = messages.create(
        [
            *user(question),
            {"role": "assistant", "content": called.content},
            {"role": "user", "content": [result]},
        ],
        tools=[WEATHER, TIME],
    )

    assert answer.content and answer.stop_reason in ("end_turn", "max_tokens", "tool_use")


def test_any_tool_is_one_of_the_tools(messages):
    message = messages.create(
        "What time is it?",
        tools=[WEATHER, TIME],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        max_tokens=100,
    )

    calls = [block for block in message.content if block.type == "tool_use"]
    assert len(calls) == 1 and calls[0].name in ("weather", "time")
    assert message.stop_reason == "tool_use"


def test_an_answer_follows_a_schema(messages):
    schema = {
        "type": "object",
        "properties": {"color": {"enum": ["red", "blue"]}},
        "required": ["color"],
        "additionalProperties": False,
    }

    message = messages.create(
        "Pick a color.", output_config={"format": {"type": "json_schema", "schema": schema}}
    )

    assert message.content[0].text.replace(" ", "").replace("\n", "") in (
        '{"color":"red"}',
        '{"color":"blue"}',
    )


def test_tokens_are_counted_as_they_are_used(messages):
    message = messages.create("Say hello.", system="You are brief.", tools=[TIME])
    counted = messages.count("Say hello.", system="You are brief.", tools=[TIME])

    usage = message.usage
    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens
    assert counted.input_tokens > messages.count("Say hello.").input_tokens


def test_text_may_be_blocks_with_cache_control(messages):
    block = {"type": "text", "text": "Say hello.", "cache_control": {"type": "ephemeral"}}

    in_blocks = messages.create([{"role": "user", "content": [block]}], system=[block])
    as_text = messages.create("Say hello.", system="Say hello.")

    assert in_blocks.content[0].text == as_text.content[0].text


def test_errors_are_the_sdks_classes(messages, server):
    with pytest.raises(anthropic.BadRequestError) as wrong:
        messages.create("hi", extra_body={"temperature": 1.5})
    assert wrong.value.body["error"]["type"] == "invalid_request_error"
    assert "temperature" in wrong.value.body["error"]["message"]
    assert wrong.value.request_id == wrong.value.body["request_id"]

    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
    with pytest.raises(anthropic.BadRequestError) as unsupported:
        messages.create([{"role": "user", "content": [image]}])
    assert "messages[0].content[0]" in str(unsupported.value)

    with pytest.raises(anthropic.NotFoundError) as unknown:
        messages.create("hi", model="nobody")
    assert unknown.value.body["error"]["type"] == "not_found_error"

    stranger = anthropic.Anthropic(base_url=server.url, api_key="sk-wrong", max_retries=0)
    with pytest.raises(anthropic.AuthenticationError) as refused:
        stranger.messages.create(model=server.model, max_tokens=1, messages=user("hi"))
    assert refused.value.body["error"]["type"] == "authentication_error"

    with pytest.raises(anthropic.BadRequestError):
        messages.count([])


def test_models_are_listed_and_retrieved(messages, server):
    listed = list(messages.client.models.list(limit=1))
    assert [model.id for model in listed] == [server.model]

    model = messages.client.models.retrieve(server.model)
    assert model == listed[0]
    assert model.type == "model" and model.display_name == server.model
    assert model.created_at.year >= 1970 and model.max_tokens > 0
    # Another client of the same server sees OpenAI's list.
    assert server.get("/v1/models")["object"] == "list"

    after = messages.client.models.list(after_id=server.model)
    assert after.data == [] and not after.has_next_page()
    with pytest.raises(anthropic.NotFoundError):
        messages.client.models.retrieve("nobody")
    with pytest.raises(anthropic.BadRequestError):
        messages.client.models.list(limit=0)
