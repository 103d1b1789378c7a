"""Sorts sentences by how near their meaning is to that of a query.

    pip install openai
    python embeddings.py minilm "travel by rail"
"""

import sys

from openai import OpenAI

SENTENCES = [
    "The cat eats fish.",
    "Stocks fell on Monday.",
    "A kitten drinks milk.",
    "The train to Geneva is late.",
    "Interest rates were raised again.",
]

if len(sys.argv) < 2:
    sys.exit(__doc__)
model = sys.argv[1]
query = " ".join(sys.argv[2:]) or "food for cats"

client = OpenAI()
reply = client.embeddings.create(model=model, input=[query, *SENTENCES])
of_query, *of_sentences = [data.embedding for data in reply.data]


def similarity(a, b):
    # Embeddings have length 1, so that this is their cosine.
    return sum(x * y for x, y in zip(a, b, strict=True))


scores = [similarity(of_query, vector) for vector in of_sentences]
for score, sentence in sorted(zip(scores, SENTENCES, strict=True), reverse=True):
    print(f"{score:.3f}  {sentence}")
