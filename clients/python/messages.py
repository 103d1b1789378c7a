"""Anthropic's Messages API: a whole message, and one that is printed while it is written.

    pip install anthropic
    python messages.py smollm2:135m "Why is the sky blue?"
"""

import sys

from anthropic import Anthropic

if len(sys.argv) < 2:
    sys.exit(__doc__)
model = sys.argv[1]
question = " ".join(sys.argv[2:]) or "Name a planet."

# The server and the key are ANTHROPIC_BASE_URL, which ends without /v1, and ANTHROPIC_API_KEY.
client = Anthropic()
messages = [{"role": "user", "content": question}]
message = client.messages.create(model=model, messages=messages, max_tokens=100)
print("".join(block.text for block in message.content if block.type == "text"))
usage = message.usage
# Tokens that the server had from an earlier request are counted apart.
num_read = usage.input_tokens + (usage.cache_read_input_tokens or 0)
print(f"({num_read} tokens in, {usage.output_tokens} out)\n")

messages.append({"role": "assistant", "content": message.content})
messages.append({"role": "user", "content": "Say that again in one sentence."})
with client.messages.stream(model=model, messages=messages, max_tokens=100) as stream:
    for text in stream.text_stream:
        print(text, end="", flush=True)
print()
