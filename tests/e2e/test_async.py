"""The asynchronous SDK: many streams at once, none crossed, none cut."""

import asyncio

import openai

from conftest import PATIENCE
from prompts import chat, prompts

STREAMS = 32


def gather(server, texts, stream):
    """The answers to `texts`, all asked at once."""

    async def run():
        async with openai.AsyncOpenAI(
            base_url=server.url + "/v1", api_key=server.key, timeout=PATIENCE, max_retries=0
        ) as client:

            async def ask(text):
                request = dict(
                    model=server.model, messages=chat(text), max_tokens=24, temperature=0
                )
                if not stream:
                    reply = await client.chat.completions.create(**request)
                    return reply.choices[0].message.content, reply.choices[0].finish_reason
                parts, reasons = [], []
                async for chunk in await client.chat.completions.create(**request, stream=True):
                    for choice in chunk.choices:
                        parts.append(choice.delta.content or "")
                        reasons += [choice.finish_reason] if choice.finish_reason else []
                assert len(reasons) == 1
                return "".join(parts), reasons[0]

            return await asyncio.gather(*[ask(text) for text in texts])

    return asyncio.run(run())


def test_32_streams_each_equal_their_solo_output(server):
    texts = prompts(STREAMS)
    solo = [gather(server, [text], stream=False)[0] for text in texts]

    together = gather(server, texts, stream=True)

    differing = [i for i in range(STREAMS) if together[i] != solo[i]]
    assert differing == []


def test_nothing_is_held_when_all_is_answered(server):
    gather(server, prompts(8), stream=True)

    server.wait_for_metric("sconce_num_requests_running", 0)
    server.wait_for_metric("sconce_num_requests_waiting", 0)
