"""What frameworks send, and what they make of the answers. What a model of 135 million weights writes
is not judged; that it fits what the framework asked for is."""

import asyncio
from typing import Annotated

import pydantic
import pytest

langchain = pytest.importorskip("langchain_openai")
instructor = pytest.importorskip("instructor")
pydantic_ai = pytest.importorskip("pydantic_ai")

from langchain_core.messages import HumanMessage, ToolMessage  # noqa: E402
from langchain_core.tools import tool  # noqa: E402
from pydantic_ai.models.openai import OpenAIChatModel  # noqa: E402
from pydantic_ai.providers.openai import OpenAIProvider  # noqa: E402


class City(pydantic.BaseModel):
    """A city."""

    # A small model would go on adding what is allowed.
    model_config = pydantic.ConfigDict(extra="forbid")

    name: str = pydantic.Field(max_length=12)
    size: int = pydantic.Field(ge=0, le=99)


@tool
def look_up(city: str, year: int) -> str:
    """Looks up a city."""
    return f"{city} in {year}"


@pytest.fixture
def chain(server):
    return langchain.ChatOpenAI(
        base_url=server.url + "/v1", api_key=server.key, model=server.model, temperature=0,
        max_completion_tokens=200, max_retries=0,
    )


def test_langchain_chats_and_streams(chain):
    whole = chain.invoke("Say hello.", max_completion_tokens=12)
    parts = list(chain.stream("Say hello.", max_completion_tokens=12))
    assert whole.content and "".join(part.content for part in parts) == whole.content
    assert whole.usage_metadata["output_tokens"] > 0


def test_langchain_calls_a_tool_and_tells_the_result(chain):
    question = HumanMessage("Where is Bern?")
    bound = chain.bind_tools([look_up], tool_choice="look_up", parallel_tool_calls=False)
    called = bound.invoke([question])
    [call] = called.tool_calls
    assert call["name"] == "look_up" and set(call["args"]) == {"city", "year"}
    streamed = None
    for chunk in bound.stream([question]):
        streamed = chunk if streamed is None else streamed + chunk
    assert streamed.tool_calls[0]["args"] == call["args"]

    result = ToolMessage(look_up.invoke(call["args"]), tool_call_id=call["id"])
    answer = chain.bind_tools([look_up]).invoke([question, called, result], max_completion_tokens=12)
    assert answer.content or answer.tool_calls


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_extracts(chain, method):
    city = chain.with_structured_output(City, method=method).invoke("Name a city.")
    assert isinstance(city, City)


@pytest.mark.parametrize("mode", ["TOOLS", "JSON_SCHEMA"])
def test_instructor_extracts(server, mode):
    from openai import OpenAI

    client = instructor.from_openai(
        OpenAI(base_url=server.url + "/v1", api_key=server.key, max_retries=0),
        mode=getattr(instructor.Mode, mode),
    )
    city = client.chat.completions.create(
        model=server.model, response_model=City, max_retries=0, max_tokens=200, temperature=0,
        messages=[{"role": "user", "content": "Name a city."}],
    )
    assert isinstance(city, City)


def test_pydantic_ai_gets_its_output(server):
    provider = OpenAIProvider(base_url=server.url + "/v1", api_key=server.key)
    model = OpenAIChatModel(server.model, provider=provider)
    agent = pydantic_ai.Agent(model, output_type=City, retries=0)
    result = agent.run_sync("Name a city.", model_settings={"temperature": 0, "max_tokens": 300})
    assert isinstance(result.output, City)


@pytest.fixture
def agents(server):
    agents = pytest.importorskip("agents")
    client = agents.AsyncOpenAI(base_url=server.url + "/v1", api_key=server.key, max_retries=0)
    agents.set_tracing_disabled(True)
    agents.set_default_openai_client(client, use_for_tracing=False)
    yield agents


def agent_of(agents, server, **more):
    # It takes an answer that was cut for a failure; after one sentence this one is complete.
    sentence = {"stop": [".", "!", "?"], "include_stop_str_in_output": True}
    settings = {"temperature": 0, "extra_body": sentence, **more.pop("settings", {})}
    return agents.Agent(
        name="a", instructions="Answer briefly.", model=server.model,
        model_settings=agents.ModelSettings(**settings), **more,
    )


def test_an_agent_calls_a_tool_and_answers(agents, server):
    """What it sends by default is the Responses API."""
    seen = []

    @agents.function_tool
    def look_up(year: Annotated[int, pydantic.Field(ge=0, le=99)]) -> str:
        """Looks up a year."""
        seen.append(year)
        return "It was a good year."

    agent = agent_of(agents, server, tools=[look_up], settings={"tool_choice": "look_up"})
    result = agents.Runner.run_sync(agent, "How was the year 7?")
    assert len(seen) == 1 and result.final_output
    kinds = [item["type"] for item in result.to_input_list()[1:]]
    assert kinds == ["function_call", "function_call_output", "message"]


def test_an_agent_has_an_output_type_and_a_stored_conversation(agents, server):
    typed = agent_of(agents, server, output_type=City, settings={"extra_body": {}})
    assert isinstance(agents.Runner.run_sync(typed, "Name a city.").final_output, City)

    plain = agent_of(agents, server)
    first = agents.Runner.run_sync(plain, "Say hello.")
    second = agents.Runner.run_sync(plain, "Again.", previous_response_id=first.last_response_id)
    assert second.final_output and second.raw_responses[0].usage.input_tokens > (
        first.raw_responses[0].usage.input_tokens
    )


def test_an_agent_streams(agents, server):
    async def run():
        agent = agent_of(agents, server)
        result = agents.Runner.run_streamed(agent, "Say hello.")
        deltas = [
            event.data.delta
            async for event in result.stream_events()
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
        ]
        return "".join(deltas), result.final_output

    deltas, final = asyncio.run(run())
    assert deltas and deltas == final
