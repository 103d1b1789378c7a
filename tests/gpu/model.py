#!/usr/bin/env python3
"""A model's configuration and a tokenizer of its vocabulary, for `--load-format dummy`.

    python3 tests/gpu/model.py SHAPE FOLDER [--weights gptq|awq|fp8|fp8-blocks]

Needs nothing but Python. A text's tokens are its bytes; the tokens beyond are words of letters, so that what
a model with random weights says is text.
"""

import argparse
import json
import pathlib
import string

SHAPES = {
    "tiny": (64, 128, 2, 4, 2, 320, True),
    "smollm2-135m": (576, 1536, 30, 9, 3, 49152, True),
    "llama-1b": (2048, 8192, 16, 32, 8, 128256, True),
    "llama-8b": (4096, 14336, 32, 32, 8, 128256, False),
}
NAMES = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
         "num_key_value_heads", "vocab_size", "tie_word_embeddings"]
WEIGHTS = {
    "bf16": None,
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 128},
    "fp8": {"quant_method": "fbgemm_fp8"},
    "fp8-blocks": {"quant_method": "fp8", "weight_block_size": [128, 128]},
}


def config(shape, weights):
    quantization = WEIGHTS[weights]
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        **dict(zip(NAMES, SHAPES[shape])), "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16",
        **({"quantization_config": quantization} if quantization else {}),
    }


def byte_characters():
    """The characters that stand for bytes in GPT-2's vocabulary, by byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    stand_ins = {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [stand_ins.get(byte, chr(byte)) for byte in range(256)]


def word(number):
    letters = []
    while number or not letters:
        number, letter = divmod(number, 26)
        letters.append(string.ascii_lowercase[letter])
    return "\u0120" + "".join(reversed(letters)).rjust(4, "a")


def tokenizer(vocab_size):
    vocabulary = byte_characters() + [word(number) for number in range(vocab_size - 256)]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0", "added_tokens": [], "pre_tokenizer": level, "decoder": level,
        "model": {"type": "BPE", "vocab": {token: i for i, token in enumerate(vocabulary)}, "merges": []},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--weights", choices=WEIGHTS, default="bf16")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    files = {"config.json": config(arguments.shape, arguments.weights),
             "tokenizer.json": tokenizer(SHAPES[arguments.shape][5])}
    for name, content in files.items():
        (arguments.folder / name).write_text(json.dumps(content))


if __name__ == "__main__":
    main()
