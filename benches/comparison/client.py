"""Streamed completions over HTTP, and when their events came."""

import asyncio
import json
from dataclasses import dataclass


class Refused(Exception):
    """The server answered with something other than the tokens that were asked for."""


@dataclass
class Completion:
    """When a stream's events came. The first is the first token's."""

    times: list
    tokens: int


async def complete(server, prompt, max_tokens):
    """Streams one greedy completion of a prompt of token ids."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1 << 20)
    try:
        writer.write(request(server, prompt, max_tokens))
        return await read(server, reader, max_tokens)
    finally:
        writer.close()


def request(server, prompt, max_tokens):
    body = json.dumps(
        {
            "model": server.model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0,
            "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True},
        }
    ).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def read(server, reader, max_tokens):
    loop = asyncio.get_running_loop()
    status = await reader.readline()
    if b" 200 " not in status:
        raise Refused(f"{server.name}: {status!r} {await reader.read(2000)!r}")
    times, tokens = [], None
    while line := await reader.readline():
        if line.startswith(b'data: {"error"'):
            raise Refused(f"{server.name}: {line!r}")
        if not line.startswith(b"data: {"):
            continue
        times.append(loop.time())
        if b'"usage":{' in line.replace(b" ", b""):
            tokens = json.loads(line[6:])["usage"]["completion_tokens"]
    if tokens != max_tokens:
        raise Refused(f"{server.name}: {tokens} tokens instead of {max_tokens}")
    return Completion(times, tokens)
