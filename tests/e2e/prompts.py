"""Prompts of many kinds and lengths, so that a batch mixes them."""

SUBJECTS = [
    "the moon", "a small boat", "winter in the north", "bread and salt", "an old clock",
    "the first snow", "a lighthouse", "three brothers",
]
ASKS = [
    "Tell me about {}.",
    "Write one sentence on {} in French.",
    "List three facts about {}:\n1.",
    "def describe():\n    # prints a line about {}\n",
]


def prompts(count):
    """`count` different prompts."""
    made = [ask.format(subject) for ask in ASKS for subject in SUBJECTS]
    return [made[i % len(made)] + " " * (i // len(made)) for i in range(count)]


def chat(text):
    return [{"role": "user", "content": text}]
