"""A LangChain agent that looks something up with a tool before it answers.

    pip install langchain langchain-openai
    python langchain_agent.py smollm2:135m "How warm is it in Rome?"
"""

import sys
from typing import Literal

from langchain.agents import create_agent
from langchain.agents.middleware import wrap_model_call
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

TEMPERATURES = {"Bern": 4, "Oslo": -2, "Rome": 17}


@tool
def look_up_temperature(city: Literal["Bern", "Oslo", "Rome"]) -> str:
    """The temperature in a city now."""
    return f"{TEMPERATURES[city]} °C"


@wrap_model_call
def look_first(request, handler):
    """Has the model call a tool, where a small one would rather guess, and answer after it."""
    is_question = isinstance(request.messages[-1], HumanMessage)
    tool_choice = "required" if is_question else "none"
    settings = {"parallel_tool_calls": False}
    return handler(request.override(tool_choice=tool_choice, model_settings=settings))


if len(sys.argv) < 2:
    sys.exit(__doc__)
model = sys.argv[1]
question = " ".join(sys.argv[2:]) or "How warm is it in Oslo?"

# The server and the key are OPENAI_BASE_URL and OPENAI_API_KEY.
llm = ChatOpenAI(model=model, temperature=0, max_completion_tokens=200)
agent = create_agent(llm, tools=[look_up_temperature], middleware=[look_first])
state = agent.invoke({"messages": [HumanMessage(question)]})
for message in state["messages"]:
    message.pretty_print()
