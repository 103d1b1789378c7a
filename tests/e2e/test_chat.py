"""The OpenAI Python SDK, synchronous: chat and text completions, streamed and not."""

import openai
import pytest

from prompts import chat


def test_a_chat_completion_has_text_usage_and_one_finish_reason(client, server):
    reply = client.chat.completions.create(
        model=server.model, messages=chat("Say hello."), max_tokens=8, temperature=0
    )

    assert reply.object == "chat.completion"
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].message.content
    assert reply.choices[0].finish_reason in ("stop", "length")
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert 0 < reply.usage.completion_tokens <= 8
    assert reply.usage.prompt_tokens_details.cached_tokens is not None


def test_a_streamed_chat_equals_the_whole_one(client, server):
    request = dict(model=server.model, messages=chat("Count to five."), max_tokens=24, temperature=0)
    whole = client.chat.completions.create(**request)

    chunks = list(
        client.chat.completions.create(
            **request, stream=True, stream_options={"include_usage": True}
        )
    )

    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    assert [delta.role for delta in deltas if delta.role] == ["assistant"]
    assert reasons == [whole.choices[0].finish_reason]
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_the_stream_helper_accumulates(client, server):
    with client.chat.completions.stream(
        model=server.model, messages=chat("Name a color."), max_tokens=12, temperature=0, n=2
    ) as stream:
        for _ in stream:
            pass
        # `get_final_completion` refuses an answer that max_tokens cut.
        final = stream.current_completion_snapshot

    assert [choice.index for choice in final.choices] == [0, 1]
    assert final.choices[0].message.content == final.choices[1].message.content


def test_text_completions_stream_and_return_the_same(client, server):
    request = dict(model=server.model, prompt="Once upon a time", max_tokens=16, temperature=0)
    whole = client.completions.create(**request)

    parts = [chunk.choices[0].text for chunk in client.completions.create(**request, stream=True)]

    assert whole.object == "text_completion"
    assert "".join(parts) == whole.choices[0].text


def test_many_prompts_in_one_request_are_numbered_in_order(client, server):
    reply = client.completions.create(
        model=server.model, prompt=["One", "Two", "Three"], n=2, max_tokens=4, temperature=0
    )

    assert [choice.index for choice in reply.choices] == list(range(6))
    assert reply.choices[0].text == reply.choices[1].text


def test_content_may_be_text_parts_and_developer_is_system(client, server):
    def ask(messages):
        return client.chat.completions.create(
            model=server.model, messages=messages, max_tokens=8, temperature=0
        ).choices[0].message.content

    parts = [{"type": "text", "text": "Say "}, {"type": "text", "text": "hello."}]

    assert ask([{"role": "user", "content": parts}])
    assert ask(
        [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    ) == ask([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])


def test_a_seed_repeats_and_another_seed_differs(client, server):
    def draw(seed):
        return client.chat.completions.create(
            model=server.model, messages=chat("Invent a word."), max_tokens=24, temperature=1.0, seed=seed
        ).choices[0].message.content

    assert draw(7) == draw(7)
    assert len({draw(seed) for seed in range(4)}) > 1


def test_a_stop_string_ends_the_text_before_it(client, server):
    request = dict(model=server.model, messages=chat("Count to nine."), max_tokens=48, temperature=0)
    text = client.chat.completions.create(**request).choices[0].message.content
    stop = text[len(text) // 2 : len(text) // 2 + 3]

    stopped = client.chat.completions.create(**request, stop=[stop]).choices[0]
    streamed = "".join(
        chunk.choices[0].delta.content or ""
        for chunk in client.chat.completions.create(**request, stop=[stop], stream=True)
    )

    assert stopped.message.content == text[: text.index(stop)] == streamed
    assert stopped.finish_reason == "stop"


def test_logprobs_name_the_sampled_token_first_when_greedy(client, server):
    choice = client.chat.completions.create(
        model=server.model, messages=chat("Hi"), max_tokens=6, temperature=0, logprobs=True, top_logprobs=3
    ).choices[0]

    assert "".join(entry.token for entry in choice.logprobs.content) == choice.message.content
    for entry in choice.logprobs.content:
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].logprob == max(top.logprob for top in entry.top_logprobs)
        assert entry.logprob == entry.top_logprobs[0].logprob <= 0


def test_a_repeated_prompt_is_found_in_the_cache(client, server):
    messages = chat("A long prefix that is worth keeping. " * 20)

    for _ in range(2):
        reply = client.chat.completions.create(
            model=server.model, messages=messages, max_tokens=1, temperature=0
        )

    assert reply.usage.prompt_tokens_details.cached_tokens >= 64


def test_models_are_listed_and_retrieved(client, server):
    listed = client.models.list().data

    assert server.model in [model.id for model in listed]
    assert client.models.retrieve(server.model).id == server.model
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no/such-model")


def test_the_end_of_the_context_is_the_default_limit(start):
    server = start("--max-model-len", "96")
    client = openai.OpenAI(base_url=server.url + "/v1", api_key=server.key, max_retries=0)
    request = dict(model=server.model, messages=chat("Hi"), extra_body={"ignore_eos": True})

    reply = client.chat.completions.create(**request)
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**request, max_tokens=96)

    assert (reply.choices[0].finish_reason, reply.usage.total_tokens) == ("length", 96)
    assert refused.value.code == "context_length_exceeded"
