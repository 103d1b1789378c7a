"""BERT in numpy, in 64-bit floats: what the server's embeddings and scores are compared with.

`encode(directory, texts)` reads a directory as `save_pretrained` writes it; nothing here shares code
with the server but the tokenizer's library.
"""

import json
import math
import pathlib

import numpy
from safetensors.numpy import load_file
from tokenizers import Tokenizer

# As exact as 64-bit floats need here, and a thousand times faster than math.erf for each element.
GRID = numpy.linspace(-6, 6, 240_001)
ERF = numpy.array([math.erf(x) for x in GRID])


def erf(x):
    return numpy.interp(x, GRID, ERF)


class Bert:
    def __init__(self, directory):
        directory = pathlib.Path(directory)
        self.config = json.loads((directory / "config.json").read_text())
        tensors = load_file(directory / "model.safetensors")
        self.tensors = {
            name.removeprefix("bert."): tensor.astype(numpy.float64)
            for name, tensor in tensors.items()
        }
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()

    def linear(self, x, name):
        return x @ self.tensors[name + ".weight"].T + self.tensors[name + ".bias"]

    def norm(self, x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / numpy.sqrt((x**2).mean(-1, keepdims=True) + self.config["layer_norm_eps"])
        return x * self.tensors[name + ".weight"] + self.tensors[name + ".bias"]

    def attention(self, x, layer):
        heads = self.config["num_attention_heads"]

        def split(name):
            projected = self.linear(x, f"{layer}.attention.self.{name}")
            return projected.reshape(len(x), heads, -1).transpose(1, 0, 2)

        query, key, value = split("query"), split("key"), split("value")
        scores = query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1])
        weights = numpy.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed = (weights @ value).transpose(1, 0, 2).reshape(len(x), -1)
        return self.linear(mixed, f"{layer}.attention.output.dense")

    def hidden_states(self, ids, types):
        at = "embeddings."
        x = self.tensors[at + "word_embeddings.weight"][ids]
        x = x + self.tensors[at + "position_embeddings.weight"][: len(ids)]
        x = x + self.tensors[at + "token_type_embeddings.weight"][types]
        x = self.norm(x, at + "LayerNorm")
        for i in range(self.config["num_hidden_layers"]):
            layer = f"encoder.layer.{i}"
            x = self.norm(x + self.attention(x, layer), f"{layer}.attention.output.LayerNorm")
            up = self.linear(x, f"{layer}.intermediate.dense")
            up = 0.5 * up * (1 + erf(up / math.sqrt(2)))
            x = self.norm(x + self.linear(up, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
        return x

    def embed(self, text):
        """The mean of the hidden states, of length 1, as sentence-transformers has it."""
        encoding = self.tokenizer.encode(text)
        mean = self.hidden_states(encoding.ids, encoding.type_ids).mean(0)
        return mean / numpy.linalg.norm(mean)

    def logits(self, first, second):
        """A cross-encoder's answer to a pair."""
        encoding = self.tokenizer.encode(first, second)
        x = self.hidden_states(encoding.ids, encoding.type_ids)[0]
        return self.linear(numpy.tanh(self.linear(x, "pooler.dense")), "classifier")
