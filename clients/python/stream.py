"""Prints an answer while it is written.

    pip install openai
    python stream.py smollm2:135m "Why is the sky blue?"
"""

import sys

from openai import OpenAI

if len(sys.argv) < 2:
    sys.exit(__doc__)
model = sys.argv[1]
question = " ".join(sys.argv[2:]) or "Tell me a story about the sea."

client = OpenAI()
stream = client.chat.completions.create(
    model=model,
    messages=[{"role": "user", "content": question}],
    max_tokens=400,
    stream=True,
    # The last chunk then has no choice, and the counts.
    stream_options={"include_usage": True},
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    else:
        print(f"\n({chunk.usage.prompt_tokens} tokens in, {chunk.usage.completion_tokens} out)")
