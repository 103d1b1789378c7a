"""What is measured over HTTP, and by the engines' own tools. Names are the same in both."""

import asyncio
import random
from dataclasses import dataclass

from .client import complete
from .servers import STREAMS


@dataclass(frozen=True)
class Workload:
    """Figures are rates, or seconds; `prompt` is tokens a stream."""

    name: str
    title: str
    kind: str
    streams: int
    prompt: int
    tokens: int
    heavy: bool = False
    # More than llama-server's slots hold: it gets a process with one slot.
    long: bool = False

    @property
    def smaller_is_better(self):
        return self.kind == "shared"


WORKLOADS = [
    Workload("decode-1", "decode, 1 stream at context 128, tokens/s", "decode", 1, 128, 128),
    Workload("decode-1-long", "decode, 1 stream at context 2,048, tokens/s", "decode", 1, 2048, 64,
             long=True),
    Workload("decode-8", "decode, 8 streams, tokens/s", "decode", 8, 128, 128),
    Workload("decode-32", "decode, 32 streams, tokens/s", "decode", 32, 128, 96),
    Workload("prefill-512", "prefill, 512 tokens, tokens/s", "prefill", 1, 512, 1),
    Workload("prefill-4096", "prefill, 4,096 tokens, tokens/s", "prefill", 1, 4096, 1, heavy=True,
             long=True),
    Workload("shared-new", "32 streams, 1,000 tokens shared, never seen, seconds", "shared",
             STREAMS, 1000, 32, heavy=True),
    Workload("shared-seen", "32 streams, 1,000 tokens shared, seen by all before, seconds",
             "shared", STREAMS, 1000, 32, heavy=True),
]
# A shared prompt's own part.
OWN_TOKENS = 16


def tokens(source, length):
    """Ordinary tokens at random, so that no cache helps anyone."""
    return [source.randrange(1000, 20000) for _ in range(length)]


async def measure(workload, server, turn):
    """A workload's figure. Prompts depend on the turn alone: all servers get the same."""
    source = random.Random(f"{workload.kind} {workload.streams} {workload.prompt} {turn}")
    if workload.kind == "decode":
        prompts = [tokens(source, workload.prompt) for _ in range(workload.streams)]
        return await decode(server, prompts, workload.tokens)
    if workload.kind == "prefill":
        return await prefill(server, tokens(source, workload.prompt))
    # `shared-new` comes right before `shared-seen`, with the same prefix.
    prefix = tokens(source, workload.prompt)
    own = random.Random(f"{workload.name} {turn}")
    prompts = [prefix + tokens(own, OWN_TOKENS) for _ in range(workload.streams)]
    return await shared(server, prompts, workload.tokens)


async def decode(server, prompts, max_tokens):
    """Tokens per second of all streams while all of them are decoding."""
    # Once to fill the caches: otherwise the first streams may have ended before the last begin.
    await asyncio.gather(*[complete(server, prompt, 1) for prompt in prompts])
    runs = await asyncio.gather(*[complete(server, prompt, max_tokens) for prompt in prompts])
    begin = max(run.times[0] for run in runs)
    end = min(run.times[-1] for run in runs)
    if end <= begin:
        raise RuntimeError(f"{server.name}: the streams did not overlap: more tokens are needed")
    total = 0.0
    for run in runs:
        # The last events of a stream carry no token, and come with the one before.
        inside = sum(begin < at <= end for at in run.times)
        total += run.tokens * inside / len(run.times)
    return total / (end - begin)


async def prefill(server, prompt):
    """Prompt tokens per second until the first token."""
    begun = asyncio.get_running_loop().time()
    run = await complete(server, prompt, 1)
    return len(prompt) / (run.times[0] - begun)


async def shared(server, prompts, max_tokens):
    """Seconds until all streams have ended."""
    begun = asyncio.get_running_loop().time()
    await asyncio.gather(*[complete(server, prompt, max_tokens) for prompt in prompts])
    return asyncio.get_running_loop().time() - begun
