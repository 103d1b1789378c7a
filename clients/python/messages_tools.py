"""Anthropic's Messages API: a model calls a function, gets the result, and answers.

    pip install anthropic
    python messages_tools.py smollm2:135m "How warm is it in Rome?"
"""

import sys

from anthropic import Anthropic

TEMPERATURES = {"Bern": 4, "Oslo": -2, "Rome": 17}
TOOLS = [
    {
        "name": "look_up_temperature",
        "description": "The temperature in a city now.",
        "input_schema": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": list(TEMPERATURES)}},
            "required": ["city"],
            "additionalProperties": False,
        },
    }
]

if len(sys.argv) < 2:
    sys.exit(__doc__)
model = sys.argv[1]
question = " ".join(sys.argv[2:]) or "How warm is it in Oslo?"


def result_of(call):
    """What a call returns, or what the model has to know about its mistake."""
    result = {"type": "tool_result", "tool_use_id": call.id}
    city = call.input.get("city")
    if call.name != "look_up_temperature" or city not in TEMPERATURES:
        return {**result, "content": "there is no such function or city", "is_error": True}
    return {**result, "content": f"{TEMPERATURES[city]} °C"}


client = Anthropic()
messages = [{"role": "user", "content": question}]
# It has to look first, where a small model would rather guess; then it may again; then it must answer.
ONE_CALL = {"disable_parallel_tool_use": True}
for tool_choice in [{"type": "any", **ONE_CALL}, {"type": "auto", **ONE_CALL}, {"type": "none"}]:
    message = client.messages.create(
        model=model, messages=messages, tools=TOOLS, tool_choice=tool_choice, max_tokens=200
    )
    messages.append({"role": "assistant", "content": message.content})
    calls = [block for block in message.content if block.type == "tool_use"]
    if not calls:
        break
    results = [result_of(call) for call in calls]
    for call, result in zip(calls, results, strict=True):
        print(f"{call.name}({call.input}) = {result['content']}")
    messages.append({"role": "user", "content": results})
print("".join(block.text for block in message.content if block.type == "text"))
