"""Streams one chat completion from Sconce with the OpenAI SDK.

    pip install openai
    SCONCE_API_KEY=sk-sconce-… python clients/python/chat.py "Why is the sky blue?"
"""

import os
import sys

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("SCONCE_URL", "http://127.0.0.1:8000") + "/v1",
    api_key=os.environ.get("SCONCE_API_KEY", "none"),
)
model = client.models.list().data[0].id
question = " ".join(sys.argv[1:]) or "Hello! Who are you?"
stream = client.chat.completions.create(
    model=model, messages=[{"role": "user", "content": question}], stream=True
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
