"""Equal requests with equal seeds get equal answers, alone and among others."""

import random
import threading

import openai

from conftest import PATIENCE
from prompts import chat, prompts

# Too few blocks for all: some sequences are preempted. Prompts are computed in chunks.
WORKER = (
    "--num-blocks", "26", "--max-num-seqs", "12", "--max-num-batched-tokens", "32",
    "--max-model-len", "400",
)


def ask(client, model, options):
    reply = client.chat.completions.create(model=model, logprobs=True, top_logprobs=2, **options)
    choice = reply.choices[0]
    tokens = [(token.token, token.logprob, token.top_logprobs) for token in choice.logprobs.content]
    return reply.system_fingerprint, choice.message.content, tokens


def test_a_seeded_request_is_answered_the_same_under_load(start):
    server = start(*WORKER)
    client = openai.OpenAI(
        base_url=server.url + "/v1", api_key=server.key, timeout=PATIENCE, max_retries=0
    )
    shared = "You are a terse assistant. " * 4
    watched = [
        dict(messages=chat(shared + "Tell me about the moon."), max_tokens=40, temperature=0),
        dict(messages=chat(shared + "Tell me about bread."), max_tokens=40, temperature=1, seed=1),
        dict(
            messages=chat(shared + "Count."), max_tokens=40, temperature=1, seed=2, top_p=0.9,
            frequency_penalty=0.3,
        ),
    ]
    expected = [ask(client, server.model, options) for options in watched]
    assert len({fingerprint for fingerprint, _, _ in expected}) == 1
    assert expected[0][0].startswith("fp_")

    over = threading.Event()

    def crowd(number):
        chance = random.Random(number)
        while not over.is_set():
            prefix = shared if chance.random() < 0.5 else ""
            client.chat.completions.create(
                model=server.model,
                messages=chat(prefix + chance.choice(prompts(32)) * chance.randint(1, 3)),
                max_tokens=chance.randint(20, 120),
                extra_body={"ignore_eos": True},
                temperature=chance.choice([0, 1]),
            )

    threads = [threading.Thread(target=crowd, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(4):
            assert [ask(client, server.model, options) for options in watched] == expected
    finally:
        over.set()
        for thread in threads:
            thread.join()

    assert server.metric("sconce_num_preemptions_total") > 0
    assert server.metric("sconce_prefix_cache_hits_total") > 0


def test_the_number_of_threads_changes_nothing(start):
    options = dict(messages=chat("Tell me about the sea."), max_tokens=30, temperature=1, seed=3)
    answers = []
    for threads in ("1", "2"):
        server = start("--threads", threads)
        client = openai.OpenAI(base_url=server.url + "/v1", api_key=server.key, timeout=PATIENCE)
        answers.append(ask(client, server.model, options))

    assert answers[0] == answers[1]


def test_the_fingerprint_names_how_it_is_computed(start):
    prints = set()
    for flags in ((), ("--exact",), ("--isa", "portable"), ("--kv-cache-dtype", "int8")):
        server = start(*flags)
        client = openai.OpenAI(base_url=server.url + "/v1", api_key=server.key, timeout=PATIENCE)
        reply = client.completions.create(model=server.model, prompt="a", max_tokens=1)
        prints.add(reply.system_fingerprint)

    assert len(prints) == 4
