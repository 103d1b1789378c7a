"""Takes what a text says as an object: the answer follows a JSON schema, token by token.

    pip install openai
    python extract.py smollm2:135m "Ann and Tom meet on Monday for chess."
"""

import sys
from typing import Annotated, Literal

from openai import OpenAI
from pydantic import BaseModel, Field

# Limits keep a small model from writing on and on.
Name = Annotated[str, Field(max_length=20)]


class Event(BaseModel):
    title: Annotated[str, Field(max_length=40)]
    day: Literal["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
    people: Annotated[list[Name], Field(max_length=5)]


if len(sys.argv) < 2:
    sys.exit(__doc__)
model = sys.argv[1]
text = " ".join(sys.argv[2:]) or "Alice and Bob are going to a science fair on Friday."

client = OpenAI()
completion = client.chat.completions.parse(
    model=model,
    messages=[
        {"role": "system", "content": "Extract the event."},
        {"role": "user", "content": text},
    ],
    response_format=Event,
    temperature=0,
    max_tokens=400,
)
event = completion.choices[0].message.parsed
print(event.model_dump_json(indent=2))
