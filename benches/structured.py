"""What it costs to follow a JSON schema: tokens a second with one and without, turn by turn, of a
running server, so that what else the machine does hits both. Prints the medians and their ratio.

    sconce up smollm2:135m
    python benches/structured.py --key sk-sconce-…
"""

import argparse
import concurrent.futures
import json
import statistics
import time
import urllib.request

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
# So many that an answer of 200 tokens is never complete.
SCHEMA = {
    "type": "object",
    "properties": {"people": {"type": "array", "minItems": 100, "items": PERSON}},
    "required": ["people"],
    "additionalProperties": False,
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--key", default="none")
    parser.add_argument("--model", default="smollm2:135m")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--streams", default="1,8", help="how many at once, with commas between")
    return parser.parse_args()


def body(options, seed, with_schema):
    request = {
        "model": options.model, "seed": seed, "temperature": 1, "max_tokens": 200,
        "ignore_eos": True,
        "messages": [{"role": "user", "content": "Write a long list of people."}],
    }
    if with_schema:
        schema = {"name": "people", "schema": SCHEMA}
        request["response_format"] = {"type": "json_schema", "json_schema": schema}
    return request


def ask(options, request):
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {options.key}"}
    url = f"{options.url}/v1/chat/completions"
    request = urllib.request.Request(url, json.dumps(request).encode(), headers)
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)["usage"]["completion_tokens"]


def rate(options, num_streams, with_schema, seed):
    requests = [body(options, seed + i, with_schema) for i in range(num_streams)]
    begun = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(num_streams) as pool:
        num_tokens = sum(pool.map(lambda request: ask(options, request), requests))
    return num_tokens / (time.monotonic() - begun)


def main():
    options = arguments()
    for num_streams in map(int, options.streams.split(",")):
        rate(options, num_streams, True, 0)
        rates = {False: [], True: []}
        for turn in range(options.rounds):
            for with_schema in (turn % 2 == 0, turn % 2 == 1):
                rates[with_schema].append(rate(options, num_streams, with_schema, 100 * turn))
        free, held = (statistics.median(rates[which]) for which in (False, True))
        print(f"{num_streams} at once: free {free:.0f} tokens/s, with a schema {held:.0f}, "
              f"ratio {held / free:.2f}")


if __name__ == "__main__":
    main()
