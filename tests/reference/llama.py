"""Llama in numpy, in 64-bit floats: what the server's embeddings by a decoder are compared with.

Reads a directory as `save_pretrained` writes it; nothing here shares code with the server but the
tokenizer's library. `python tests/reference/llama.py` compares it with transformers' fixtures.
"""

import json
import pathlib

import numpy
from safetensors.numpy import load_file
from tokenizers import Tokenizer


class Llama:
    def __init__(self, directory):
        directory = pathlib.Path(directory)
        self.config = json.loads((directory / "config.json").read_text())
        self.tensors = {
            name.removeprefix("model."): tensor.astype(numpy.float64)
            for name, tensor in load_file(directory / "model.safetensors").items()
        }
        if (directory / "tokenizer.json").exists():
            self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))

    def linear(self, x, name):
        return x @ self.tensors[name + ".weight"].T

    def norm(self, x, name):
        x = x / numpy.sqrt((x**2).mean(-1, keepdims=True) + self.config["rms_norm_eps"])
        return x * self.tensors[name + ".weight"]

    def rotate(self, x):
        half = x.shape[-1] // 2
        rope = self.config.get("rope_parameters") or self.config
        angles = numpy.arange(x.shape[1])[:, None] * rope["rope_theta"] ** (
            -numpy.arange(half) / half
        )
        first, second = x[..., :half], x[..., half:]
        cos, sin = numpy.cos(angles), numpy.sin(angles)
        return numpy.concatenate([first * cos - second * sin, second * cos + first * sin], -1)

    def attention(self, x, layer):
        heads, kv_heads = (
            self.config["num_attention_heads"], self.config["num_key_value_heads"]
        )

        def split(name, count):
            projected = self.linear(x, f"{layer}.self_attn.{name}_proj")
            return projected.reshape(len(x), count, -1).transpose(1, 0, 2)

        query = self.rotate(split("q", heads))
        key, value = self.rotate(split("k", kv_heads)), split("v", kv_heads)
        key, value = (numpy.repeat(each, heads // kv_heads, 0) for each in (key, value))
        scores = query @ key.transpose(0, 2, 1) / numpy.sqrt(query.shape[-1])
        scores += numpy.triu(numpy.full(scores.shape[1:], -numpy.inf), 1)
        weights = numpy.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed = (weights @ value).transpose(1, 0, 2).reshape(len(x), -1)
        return self.linear(mixed, f"{layer}.self_attn.o_proj")

    def hidden_states(self, ids):
        """After the last norm."""
        x = self.tensors["embed_tokens.weight"][ids]
        for i in range(self.config["num_hidden_layers"]):
            layer = f"layers.{i}"
            x = x + self.attention(self.norm(x, f"{layer}.input_layernorm"), layer)
            y = self.norm(x, f"{layer}.post_attention_layernorm")
            gate = self.linear(y, f"{layer}.mlp.gate_proj")
            y = gate / (1 + numpy.exp(-gate)) * self.linear(y, f"{layer}.mlp.up_proj")
            x = x + self.linear(y, f"{layer}.mlp.down_proj")
        return self.norm(x, "norm")


def check(directory):
    """Compares the last token's hidden states with transformers'."""
    model, fixture = Llama(directory), json.loads((directory / "vectors.json").read_text())
    for ids, vector in zip(fixture["inputs"], fixture["vectors"], strict=True):
        last = model.hidden_states(ids)[-1]
        assert numpy.allclose(last / numpy.linalg.norm(last), vector, atol=1e-5)


if __name__ == "__main__":
    check(pathlib.Path(__file__).with_name("embedders") / "llama")
