"""LlamaIndex, which still brings the previous major version of OpenAI's SDK."""

import pydantic
import pytest

openai_like = pytest.importorskip("llama_index.llms.openai_like")

from llama_index.core.llms import ChatMessage, MessageRole  # noqa: E402
from llama_index.core.tools import FunctionTool  # noqa: E402

from conftest import PATIENCE  # noqa: E402


class City(pydantic.BaseModel):
    """A city."""

    model_config = pydantic.ConfigDict(extra="forbid")

    name: str = pydantic.Field(max_length=12)
    size: int = pydantic.Field(ge=0, le=99)


def look_up(city: str, year: int) -> str:
    """Looks up a city."""
    return f"{city} in {year}"


@pytest.fixture
def llm(server):
    def llm(**options):
        given = dict(
            model=server.model, api_base=server.url + "/v1", api_key=server.key, temperature=0,
            max_tokens=12, max_retries=0, timeout=PATIENCE, is_chat_model=True,
            is_function_calling_model=True,
        )
        return openai_like.OpenAILike(**given | options)

    return llm


def test_it_chats_and_streams(llm):
    question = [ChatMessage(role="user", content="Say hello.")]
    whole = llm().chat(question)
    parts = [part.delta for part in llm().stream_chat(question)]
    assert whole.message.content and "".join(parts) == whole.message.content


def test_it_completes_and_streams(llm):
    completes = llm(is_chat_model=False)
    whole = completes.complete("Once upon a time")
    parts = [part.delta for part in completes.stream_complete("Once upon a time")]
    assert whole.text and "".join(parts) == whole.text


def test_it_calls_a_tool_and_tells_the_result(llm):
    tools = [FunctionTool.from_defaults(look_up)]
    question = ChatMessage(role="user", content="Where is Bern?")
    asked = dict(user_msg=question, tool_choice="look_up", allow_parallel_tool_calls=False)
    called = llm(max_tokens=200).chat_with_tools(tools, **asked)
    [call] = llm().get_tool_calls_from_response(called)
    assert call.tool_name == "look_up" and set(call.tool_kwargs) == {"city", "year"}
    *_, streamed = llm(max_tokens=200).stream_chat_with_tools(tools, **asked)
    [again] = llm().get_tool_calls_from_response(streamed)
    assert again.tool_kwargs == call.tool_kwargs

    result = ChatMessage(
        role=MessageRole.TOOL, content=str(tools[0](**call.tool_kwargs)),
        additional_kwargs={"tool_call_id": call.tool_id},
    )
    answer = llm().chat_with_tools(tools, chat_history=[question, called.message, result])
    assert answer.raw.choices[0].finish_reason in ("stop", "length", "tool_calls")


@pytest.mark.parametrize("by_schema", [True, False])
def test_it_extracts(llm, by_schema):
    extracts = llm(max_tokens=200, should_use_structured_outputs=by_schema).as_structured_llm(City)
    answer = extracts.chat([ChatMessage(role="user", content="Name a city.")])
    assert isinstance(answer.raw, City)
