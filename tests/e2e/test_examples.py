"""The examples in clients/ for the SDKs of OpenAI and Anthropic. That each does what it says is
checked, not how much a model of 135 million weights knows."""

import http.client
import json
import re

import pytest

import examples
import npm
from conftest import PATIENCE

TEMPERATURES = {"Bern": 4, "Oslo": -2, "Rome": 17}
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
COUNTS = re.compile(r"\((\d+) tokens in, (\d+) out\)")


@pytest.fixture(params=["python", "node"])
def openai(request):
    return examples.node() if request.param == "node" else examples.python("openai")


@pytest.fixture(params=["python", "node"])
def anthropic(request):
    return examples.node() if request.param == "node" else examples.python("anthropic")


def test_a_second_question_brings_the_whole_conversation(openai, server):
    printed = openai.run(server, "chat", server.model)
    (first_in, first_out), (second_in, second_out) = COUNTS.findall(printed)
    assert int(second_in) > int(first_in) and int(first_out) > 0 and int(second_out) > 0


def test_an_answer_is_printed_while_it_is_written(openai, server):
    with (
        examples.Relay(server.url, seed=1) as relay,
        openai.started(relay.url, server.key, "stream", server.model) as example,
    ):
        first = example.stdout.read(1)
        assert first and relay.is_holding.is_set() and not relay.goes_on.is_set()
        relay.goes_on.set()
        rest, _ = example.communicate(timeout=PATIENCE)
        assert example.returncode == 0 and COUNTS.search(rest)


def test_a_tool_is_called_and_its_result_told(openai, server):
    called(openai.run(server, "tools", server.model))


def called(printed):
    city, degrees = re.match(r"look_up_temperature\(.*?['\"](\w+)['\"]\}\) = (-?\d+) °C\n", printed).groups()
    assert int(degrees) == TEMPERATURES[city]


def test_an_extracted_object_follows_its_schema(openai, server):
    event = json.loads(openai.run(server, "extract", server.model))
    assert set(event) == {"title", "day", "people"}
    assert len(event["title"]) <= 40 and event["day"] in DAYS
    assert len(event["people"]) <= 5 and all(len(name) <= 20 for name in event["people"])


def test_the_server_keeps_a_conversation(openai, server):
    printed = openai.run(server, "responses", server.model)
    (first_in, first_out), (second_in, second_out) = COUNTS.findall(printed)
    # Only the new question was sent.
    assert int(second_in) > int(first_in) + int(first_out) and int(second_out) > 0


def test_sentences_are_sorted_by_their_meaning(openai, pair):
    lines = openai.run(pair, "embeddings", "minilm", "food for cats").splitlines()
    scores = [float(line.split()[0]) for line in lines]
    assert len(lines) == 5 and scores == sorted(scores, reverse=True)
    assert {line.split("  ")[1] for line in lines[:2]} == {"The cat eats fish.", "A kitten drinks milk."}


@pytest.mark.parametrize(
    ("question", "note"),
    [
        ("When can I eat in the morning?", "Breakfast is served"),
        ("How do I get online?", "The password of the wireless network"),
    ],
)
def test_an_answer_is_made_from_what_was_found(openai, pair, question, note):
    first, second, *answer = openai.run(pair, "rag", "chat", "minilm", question).splitlines()
    assert first.startswith(f"found: {note}") and second.startswith("found: ")
    assert "".join(answer).strip()


def test_messages_are_answered_whole_and_as_a_stream(anthropic, server):
    printed = anthropic.run(server, "messages", server.model)
    [(num_in, num_out)] = COUNTS.findall(printed)
    assert int(num_in) > 0 and int(num_out) > 0


def test_a_tool_of_messages_is_called_and_its_result_told(anthropic, server):
    called(anthropic.run(server, "messages_tools", server.model))


def test_a_langchain_agent_looks_before_it_answers(server):
    printed = examples.node().run(server, "langchain_agent", server.model)
    question, call, result, *_ = printed.splitlines()
    assert question == "human: How warm is it in Oslo?"
    [city] = json.loads(re.fullmatch(r"look_up_temperature\((.*)\)", call).group(1)).values()
    assert result == f"tool: {TEMPERATURES[city]} °C"


def test_every_example_says_what_it_is_for_and_is_listed():
    listed = (examples.CLIENTS.parent / "docs" / "clients.md").read_text()
    files = [*(examples.CLIENTS / "python").glob("*.py"), *(examples.CLIENTS / "node").glob("*.mjs")]
    assert len(files) > 20
    for file in files:
        header = file.read_text().split("import ")[0]
        assert "install" in header and f" {file.name} " in header, file
        assert f"/{file.name})" in listed, file


def post_chat(url, body, content_type="application/json"):
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE)
    connection.request("POST", "/chat", body, {"Content-Type": content_type})
    return connection, connection.getresponse()


def test_a_web_page_is_told_why_there_is_no_answer(openai, server):
    body = json.dumps({"messages": [{"role": "user", "content": "Hello"}]})
    with openai.web(server.url, server.key, "nobody") as url:
        _, reply = post_chat(url, body)
        assert "nobody" in json.loads(reply.read().removeprefix(b"data: "))["error"]
        # What another page's form can send.
        assert post_chat(url, body, "text/plain")[1].status in (400, 404)
        assert post_chat(url, "{")[1].status == 400


def test_a_browser_that_leaves_stops_the_model(openai, server):
    num_cancelled = server.metric("sconce_cancel_to_free_seconds_count") or 0
    body = json.dumps({"messages": [{"role": "user", "content": "Tell me a story about the sea."}]})
    # Longer than it takes anyone to see that the browser has gone.
    with (
        examples.Relay(server.url, ignore_eos=True, max_tokens=6000) as relay,
        openai.web(relay.url, server.key, server.model) as url,
    ):
        relay.goes_on.set()
        connection, reply = post_chat(url, body)
        assert reply.readline().startswith(b"data: ")
        reply.close()
        connection.close()
        server.wait_for_metric("sconce_cancel_to_free_seconds_count", num_cancelled + 1)


@npm.needs_modules
@npm.needs_chromium
def test_a_web_page_shows_an_answer_while_it_is_written(openai, server):
    with (
        examples.Relay(server.url, seed=1) as relay,
        openai.web(relay.url, server.key, server.model) as url,
    ):
        npm.run("web-page", PAGE=url, RELAY=relay.url)
        assert relay.is_holding.is_set()
