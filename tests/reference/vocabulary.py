"""Tokenizers made from GGUF files by transformers, and the original that SmolLM2 was trained with."""

import gguf
from tokenizers import pre_tokenizers
from transformers.integrations.gguf.gguf_tokenizer_mapping import (
    GGUF_TOKENIZER_MAPPING,
    convert_gguf_tokenizer,
)


def converted_tokenizer(path):
    """What transformers makes of a GGUF file, with the name of its pre-tokenizer.

    transformers' own reader of GGUF wants torch, gguf-py's does not.
    """
    fields = gguf.GGUFReader(path).fields
    described = {
        name: fields[f"tokenizer.{key}"].contents()
        for key, name in GGUF_TOKENIZER_MAPPING["tokenizer"].items()
        if f"tokenizer.{key}" in fields
    }
    architecture = fields["general.architecture"].contents()
    backend, _ = convert_gguf_tokenizer(architecture, described)
    return backend, described.get("pre_tokenizer_type")


def original_tokenizer(path):
    """The same with the pre-tokenizer of the original `tokenizer.json`.

    transformers does not know "smollm" (nor "starcoder" and "refact") and cuts like GPT-2. The
    originals cut digits off first: Sequence[Digits(individual_digits), ByteLevel]. It shows where
    digits follow more than one space.
    """
    backend, name = converted_tokenizer(path)
    if name in ("smollm", "starcoder", "refact"):
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    return backend
