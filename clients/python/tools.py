"""Lets a model call a function, gives it the result, and prints its answer.

    pip install openai
    python tools.py smollm2:135m "How warm is it in Rome?"
"""

import json
import sys

from openai import OpenAI

TEMPERATURES = {"Bern": 4, "Oslo": -2, "Rome": 17}


def look_up_temperature(city):
    return f"{TEMPERATURES[city]} °C"


FUNCTIONS = {"look_up_temperature": look_up_temperature}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look_up_temperature",
            "description": "The temperature in a city now.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "enum": list(TEMPERATURES)}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
]

if len(sys.argv) < 2:
    sys.exit(__doc__)
model = sys.argv[1]
question = " ".join(sys.argv[2:]) or "How warm is it in Oslo?"


def call(function):
    """What a function returns, or what the model has to know about its mistake."""
    try:
        return FUNCTIONS[function.name](**json.loads(function.arguments))
    except (KeyError, TypeError, ValueError) as error:
        return f"error: {error!r}"


client = OpenAI()
messages = [{"role": "user", "content": question}]
# It has to look first, where a small model would rather guess; then it may again; then it must answer.
for tool_choice in ["required", "auto", "none"]:
    reply = client.chat.completions.create(
        model=model,
        messages=messages,
        tools=TOOLS,
        tool_choice=tool_choice,
        parallel_tool_calls=False,
        temperature=0,
        max_tokens=200,
    )
    message = reply.choices[0].message
    messages.append(message)
    if not message.tool_calls:
        break
    for tool_call in message.tool_calls:
        result = call(tool_call.function)
        print(f"{tool_call.function.name}({tool_call.function.arguments}) = {result}")
        messages.append({"role": "tool", "tool_call_id": tool_call.id, "content": result})
print(message.content)
