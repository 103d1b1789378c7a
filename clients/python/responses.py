"""Goes on with a conversation that the server keeps, by the Responses API, and streams the answer.

    pip install openai
    python responses.py smollm2:135m "Name a planet."
"""

import sys

from openai import OpenAI

if len(sys.argv) < 2:
    sys.exit(__doc__)
model = sys.argv[1]
question = " ".join(sys.argv[2:]) or "Name a planet."

client = OpenAI()
first = client.responses.create(
    model=model, instructions="Answer briefly.", input=question, max_output_tokens=100
)
print(first.output_text)
print(f"({first.usage.input_tokens} tokens in, {first.usage.output_tokens} out)\n")

stream = client.responses.create(
    model=model,
    previous_response_id=first.id,
    input="Tell me more about it.",
    max_output_tokens=200,
    stream=True,
)
for event in stream:
    if event.type == "response.output_text.delta":
        print(event.delta, end="", flush=True)
    elif event.type in ("response.completed", "response.incomplete"):
        usage = event.response.usage
        print(f"\n({usage.input_tokens} tokens in, {usage.output_tokens} out)")
