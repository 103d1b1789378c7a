"""litellm as a gateway in front of the server, with OpenAI's SDK in front of it."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time
import urllib.request
import uuid

import pytest

pytest.importorskip("litellm.proxy", reason="litellm is not installed here: tests/run.sh knows where")
openai = pytest.importorskip("openai")

from conftest import PATIENCE  # noqa: E402

KEY = f"sk-{uuid.uuid4().hex}"
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "size": {"enum": [1, 2]}},
    "required": ["name", "size"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "find_city", "parameters": SCHEMA}}


def user(text):
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def gateway(server, tmp_path_factory):
    """The base URL of a gateway."""
    directory = tmp_path_factory.mktemp("litellm")
    config = directory / "config.yaml"
    through = {
        "model": f"openai/{server.model}", "api_base": server.url + "/v1", "api_key": server.key
    }
    # JSON is YAML.
    config.write_text(json.dumps({"model_list": [{"model_name": "m", "litellm_params": through}]}))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = pathlib.Path(sys.executable).with_name("litellm")
    environment = dict(os.environ, LITELLM_LOCAL_MODEL_COST_MAP="True", LITELLM_MASTER_KEY=KEY)
    with open(directory / "log", "w+") as log:
        process = subprocess.Popen(
            [command, "--config", config, "--host", "127.0.0.1", "--port", str(port)],
            cwd=directory, env=environment, stdout=log, stderr=subprocess.STDOUT,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            wait_for(url + "/health/liveliness", process)
            yield url
        finally:
            process.terminate()
            process.wait(PATIENCE)
            log.seek(0)
            print(log.read()[-6000:])


def wait_for(url, process):
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE):
                return
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline, "litellm did not start"
            time.sleep(0.2)


@pytest.fixture
def chat(gateway):
    client = openai.OpenAI(base_url=gateway, api_key=KEY, timeout=PATIENCE, max_retries=0)

    def chat(messages, **options):
        given = dict(model="m", messages=messages, temperature=0, max_tokens=12)
        return client.chat.completions.create(**given | options)

    return chat


def test_it_chats_and_streams(chat):
    whole = chat(user("Say hello."))
    chunks = list(chat(user("Say hello."), stream=True, stream_options={"include_usage": True}))

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text and text == whole.choices[0].message.content
    assert whole.usage.completion_tokens > 0
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_it_calls_a_tool_and_tells_the_result(chat):
    forced = dict(
        tools=[TOOL], max_tokens=100,
        tool_choice={"type": "function", "function": {"name": "find_city"}},
    )
    called = chat(user("Where is Bern?"), **forced).choices[0].message
    [call] = called.tool_calls
    assert call.function.name == "find_city"
    assert set(json.loads(call.function.arguments)) == {"name", "size"}
    deltas = [chunk.choices[0].delta for chunk in chat(user("Where is Bern?"), stream=True, **forced)]
    fragments = [call for delta in deltas for call in delta.tool_calls or []]
    arguments = "".join(fragment.function.arguments or "" for fragment in fragments)
    assert json.loads(arguments) == json.loads(call.function.arguments)

    result = {"role": "tool", "tool_call_id": call.id, "content": "Bern is in Switzerland."}
    history = [*user("Where is Bern?"), called.model_dump(exclude_none=True), result]
    answer = chat(history, tools=[TOOL]).choices[0].message
    assert answer.content or answer.tool_calls


def test_it_follows_a_schema(chat):
    schema = {"name": "city", "strict": True, "schema": SCHEMA}
    answer = chat(
        user("Name a city."), max_tokens=100,
        response_format={"type": "json_schema", "json_schema": schema},
    )
    assert json.loads(answer.choices[0].message.content)["size"] in (1, 2)


def test_errors_keep_their_status(chat):
    with pytest.raises(openai.BadRequestError) as wrong:
        chat(user("hi"), temperature=9)
    assert "temperature" in str(wrong.value)
