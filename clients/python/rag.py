"""Finds what a question is about among notes, by embeddings, and answers from what it found.

    pip install openai
    python rag.py smollm2:135m minilm "When is breakfast?"
"""

import sys

from openai import OpenAI

NOTES = [
    "Breakfast is served from seven to ten in the winter garden.",
    "Rooms are free from three in the afternoon; please leave them by eleven.",
    "The sauna in the cellar is open to guests every evening, and mixed on Fridays.",
    "Dogs are welcome for ten francs a night, but not in the dining room.",
    "The last cable car to the summit leaves at half past four.",
    "The password of the wireless network is on the back of your key card.",
    "Bicycles can be borrowed at the reception without charge.",
    "In winter the road over the pass is closed; take the train through the tunnel.",
]
NUM_FOUND = 2

if len(sys.argv) < 3:
    sys.exit(__doc__)
model, embedding_model = sys.argv[1:3]
question = " ".join(sys.argv[3:]) or "When can I eat in the morning?"

client = OpenAI()


def embed(texts):
    reply = client.embeddings.create(model=embedding_model, input=texts)
    return [data.embedding for data in reply.data]


def similarity(a, b):
    # Embeddings have length 1, so that this is their cosine.
    return sum(x * y for x, y in zip(a, b, strict=True))


# With more notes than these, keep the vectors in a database instead of a list.
index = list(zip(embed(NOTES), NOTES, strict=True))

[of_question] = embed([question])
nearest = sorted(index, key=lambda entry: similarity(of_question, entry[0]), reverse=True)
found = [note for _, note in nearest[:NUM_FOUND]]
for note in found:
    print("found:", note)

stream = client.chat.completions.create(
    model=model,
    messages=[
        {"role": "system", "content": "Answer from these notes only:\n" + "\n".join(found)},
        {"role": "user", "content": question},
    ],
    temperature=0,
    max_tokens=100,
    stream=True,
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
