"""Asks a question, and a second one about the answer; tells how many tokens it took.

    pip install openai
    python chat.py smollm2:135m "Why is the sky blue?"
"""

import sys

from openai import OpenAI

if len(sys.argv) < 2:
    sys.exit(__doc__)
model = sys.argv[1]
question = " ".join(sys.argv[2:]) or "Name a planet."

# The server and the key are OPENAI_BASE_URL and OPENAI_API_KEY.
client = OpenAI()
messages = []
for text in [question, "Say that again in one sentence."]:
    messages.append({"role": "user", "content": text})
    reply = client.chat.completions.create(model=model, messages=messages, max_tokens=200)
    answer = reply.choices[0].message.content
    print(answer)
    print(f"({reply.usage.prompt_tokens} tokens in, {reply.usage.completion_tokens} out)\n")
    # The server remembers nothing here: each request brings the whole conversation.
    messages.append({"role": "assistant", "content": answer})
