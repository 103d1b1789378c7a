"""Takes what a text says as an object with instructor, which asks again where a check fails.

    pip install instructor
    python instructor_extract.py smollm2:135m "Tom is 40 years old and lives in Rome."
"""

import sys
from typing import Annotated

import instructor
from openai import OpenAI
from pydantic import BaseModel, Field


class Person(BaseModel):
    name: Annotated[str, Field(max_length=20)]
    age: Annotated[int, Field(ge=0, le=130)]
    city: Annotated[str, Field(max_length=20)] | None


if len(sys.argv) < 2:
    sys.exit(__doc__)
model = sys.argv[1]
text = " ".join(sys.argv[2:]) or "Ann, who is 31, moved to Oslo last year."

client = instructor.from_openai(OpenAI(), mode=instructor.Mode.JSON_SCHEMA)
person = client.chat.completions.create(
    model=model,
    messages=[{"role": "user", "content": f"Extract the person: {text}"}],
    response_model=Person,
    max_retries=2,
    temperature=0,
    max_tokens=200,
)
print(person.model_dump_json(indent=2))
