"""Streams that survive a broken connection, requests that are answered once, progress and timings."""

import json
import threading
import urllib.request

import anthropic
import openai
import pytest
from openai.types.chat import ChatCompletionChunk

from conftest import PATIENCE
from prompts import chat

RESUMABLE = {"x-stream-resumable": "true"}


def text_of(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def resume(client, stream_id, after):
    return client.get(
        f"/streams/{stream_id}?after={after}",
        cast_to=ChatCompletionChunk,
        stream=True,
        stream_cls=openai.Stream[ChatCompletionChunk],
    )


def begin(client, server, num_events, **options):
    """Reads so many events of a resumable stream, then breaks its connection."""
    raw = client.chat.completions.with_raw_response.create(
        model=server.model, messages=chat("Tell a story."), temperature=0, max_tokens=60,
        stream=True, extra_headers=RESUMABLE, **options,
    )
    stream = raw.parse()
    chunks = [chunk for chunk, _ in zip(stream, range(num_events))]
    stream.response.close()
    return raw.headers["x-stream-id"], chunks


def test_a_stream_that_was_cut_goes_on_where_it_was(client, server):
    whole = client.chat.completions.create(
        model=server.model, messages=chat("Tell a story."), temperature=0, max_tokens=60
    )

    for num_events in (1, 2, 13):
        stream_id, chunks = begin(client, server, num_events)
        chunks += list(resume(client, stream_id, num_events))

        assert text_of(chunks) == whole.choices[0].message.content
        reasons = [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason]
        assert reasons == [whole.choices[0].finish_reason]
        assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_can_be_cut_again_and_again(client, server):
    whole = client.chat.completions.create(
        model=server.model, messages=chat("Tell a story."), temperature=0, max_tokens=60
    )

    stream_id, chunks = begin(client, server, 3)
    for _ in range(6):
        stream = resume(client, stream_id, len(chunks))
        chunks += [chunk for chunk, _ in zip(stream, range(4))]
        stream.response.close()
    chunks += list(resume(client, stream_id, len(chunks)))

    assert text_of(chunks) == whole.choices[0].message.content


def test_a_stream_is_unknown_to_others_and_after_events_that_did_not_come(client, server):
    stream_id, _ = begin(client, server, 2)

    with pytest.raises(openai.NotFoundError) as unknown:
        list(resume(client, stream_id[:-1] + "x", 0))
    with pytest.raises(openai.BadRequestError) as early:
        list(resume(client, stream_id, 10_000))

    assert unknown.value.code == "stream_not_found"
    assert early.value.param == "after"


def test_a_stream_that_nobody_comes_back_to_is_cancelled(start, monkeypatch):
    monkeypatch.setenv("SCONCE_STREAM_GRACE", "0.5")
    server = start()
    client = openai.OpenAI(base_url=server.url + "/v1", api_key=server.key, max_retries=0)

    begin(client, server, 2, extra_body={"max_tokens": 4000, "ignore_eos": True})

    server.wait_for_metric("sconce_streams_abandoned_total", 1)
    server.wait_for_metric("sconce_num_requests_running", 0)
    server.wait_for_metric("sconce_kv_cache_usage_perc", 0)


def test_a_message_is_resumed_in_its_own_format(server):
    client = anthropic.Anthropic(base_url=server.url, api_key=server.key, max_retries=0)
    request = dict(
        model=server.model, max_tokens=30,
        messages=[{"role": "user", "content": "Name a color."}],
    )
    whole = client.messages.create(**request)
    begun = urllib.request.Request(
        server.url + "/v1/messages",
        data=json.dumps(dict(request, stream=True)).encode(),
        headers={"x-api-key": server.key, "content-type": "application/json"} | RESUMABLE,
    )
    with urllib.request.urlopen(begun, timeout=PATIENCE) as reply:
        stream_id = reply.headers["x-stream-id"]
        first = reply.readline()

    rest = server.get(f"/v1/streams/{stream_id}?after=1", raw=True)

    assert first == b"event: message_start\n"
    assert rest.startswith("event: content_block_start\n")
    assert rest.endswith('event: message_stop\ndata: {"type":"message_stop"}\n\n')
    assert rest.count("text_delta") >= 1 and whole.content[0].text


def test_a_repeated_request_is_answered_once(client, server):
    def ask(key):
        raw = client.chat.completions.with_raw_response.create(
            model=server.model, messages=chat("Say a number."), max_tokens=20,
            extra_headers={"Idempotency-Key": key},
        )
        return raw.headers.get("idempotent-replayed"), raw.parse()

    answers = []
    threads = [threading.Thread(target=lambda: answers.append(ask("e2e-1"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers.append(ask("e2e-1"))

    assert len({answer.id for _, answer in answers}) == 1
    assert sorted(replayed or "" for replayed, _ in answers) == [""] + ["true"] * 4
    assert ask("e2e-2")[1].id != answers[0][1].id


def test_an_idempotency_key_holds_for_one_body(client, server):
    def ask(text):
        return client.chat.completions.create(
            model=server.model, messages=chat(text), max_tokens=4,
            extra_headers={"Idempotency-Key": "e2e-3"},
        )

    ask("Hello.")
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        ask("Goodbye.")

    assert refused.value.code == "idempotency_key_reused"


def test_progress_and_timings_disturb_no_helper(start):
    server = start("--max-num-batched-tokens", "64")
    client = openai.OpenAI(base_url=server.url + "/v1", api_key=server.key, max_retries=0)
    request = dict(
        model=server.model, messages=chat("Again and again. " * 60), max_tokens=8, temperature=0
    )
    chunks = []
    with client.chat.completions.stream(
        **request,
        stream_options={"include_usage": True, "include_progress": True},
        extra_body={"include_timings": True},
    ) as stream:
        for event in stream:
            if event.type == "chunk":
                chunks.append(event.chunk)
        final = stream.current_completion_snapshot

    told = [chunk.prompt_progress for chunk in chunks if hasattr(chunk, "prompt_progress")]
    processed = [progress["processed"] for progress in told]
    assert len(processed) > 2 and processed == sorted(processed)
    assert processed[-1] == told[-1]["total"] == final.usage.prompt_tokens
    timings = [chunk.timings for chunk in chunks if hasattr(chunk, "timings")]
    assert len(timings) == 1 and 0 <= timings[0]["queue_ms"] < timings[0]["ttft_ms"]
    assert timings[0]["ttft_ms"] <= timings[0]["e2e_ms"]

    whole = client.chat.completions.create(**request, extra_body={"include_timings": True})
    assert whole.timings["tpot_ms"] > 0
    assert whole.choices[0].message.content == final.choices[0].message.content
