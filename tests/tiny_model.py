"""Writes a tiny random Llama model with a tokenizer and a chat template, as safetensors.

It stands in where the real model can't be had: `python tests/tiny_model.py DIRECTORY`. With
`embeds`, as a third argument, it is laid out like Qwen3-Embedding: without a head, with the files
of sentence-transformers, and with a tokenizer that puts the end token after a text.
"""

import json
import pathlib
import sys

import numpy
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "hidden_act": "silu",
    "torch_dtype": "float32",
    "bos_token_id": 0,
    "eos_token_id": 1,
}
TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message.role }}\n{{ message.content }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
TEXT = ["the moon and a small boat", "winter in the north", "def describe(): return 1", "0 1 2 3"]


def tokenizer():
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=["<|start|>", "<|end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return made


def weights(vocab_size):
    random = numpy.random.default_rng(0)
    width, ff, layers = (
        CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["num_hidden_layers"]
    )
    kv = CONFIG["num_key_value_heads"] * CONFIG["head_dim"]

    def matrix(rows, columns, scale):
        return (random.standard_normal((rows, columns)) * scale).astype(numpy.float32)

    tensors = {
        "model.embed_tokens.weight": matrix(vocab_size, width, 1.0),
        "model.norm.weight": numpy.ones(width, numpy.float32),
    }
    for i in range(layers):
        at = f"model.layers.{i}."
        tensors |= {
            at + "input_layernorm.weight": numpy.ones(width, numpy.float32),
            at + "post_attention_layernorm.weight": numpy.ones(width, numpy.float32),
            at + "self_attn.q_proj.weight": matrix(width, width, 0.2),
            at + "self_attn.k_proj.weight": matrix(kv, width, 0.2),
            at + "self_attn.v_proj.weight": matrix(kv, width, 0.2),
            at + "self_attn.o_proj.weight": matrix(width, width, 0.2),
            at + "mlp.gate_proj.weight": matrix(ff, width, 0.2),
            at + "mlp.up_proj.weight": matrix(ff, width, 0.2),
            at + "mlp.down_proj.weight": matrix(width, ff, 0.2),
        }
    return tensors


def write_modules(directory, pooling, normalize):
    """The files of sentence-transformers."""
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    modules = [
        {
            "idx": i,
            "name": str(i),
            "path": f"{i}_{kind}" if i else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for i, kind in enumerate(kinds)
    ]
    (directory / "modules.json").write_text(json.dumps(modules, indent=1))
    modes = ["cls_token", "mean_tokens", "max_tokens", "lasttoken"]
    modes = {f"pooling_mode_{mode}": mode == pooling for mode in modes}
    (directory / "1_Pooling").mkdir(exist_ok=True)
    (directory / "1_Pooling/config.json").write_text(json.dumps(modes, indent=1))


def write_embedder(directory, pooling="lasttoken", normalize=True):
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    made = tokenizer()
    made.post_processor = processors.Sequence(
        [
            processors.ByteLevel(),
            processors.TemplateProcessing(
                single="$A <|end|>",
                pair="$A <|end|> $B:1 <|end|>:1",
                special_tokens=[("<|end|>", made.token_to_id("<|end|>"))],
            ),
        ]
    )
    made.save(str(directory / "tokenizer.json"))
    config = CONFIG | {
        "architectures": ["LlamaModel"],
        "vocab_size": made.get_vocab_size(),
        "tie_word_embeddings": False,
    }
    (directory / "config.json").write_text(json.dumps(config, indent=1))
    write_modules(directory, pooling, normalize)
    tensors = weights(config["vocab_size"])
    tensors = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    save_file(tensors, directory / "model.safetensors")


def main(directory):
    directory.mkdir(parents=True, exist_ok=True)
    made = tokenizer()
    made.save(str(directory / "tokenizer.json"))
    config = CONFIG | {"vocab_size": made.get_vocab_size()}
    (directory / "config.json").write_text(json.dumps(config, indent=1))
    (directory / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "bos_token": "<|start|>",
                "eos_token": "<|end|>",
                "add_bos_token": False,
                "chat_template": TEMPLATE,
                "tokenizer_class": "PreTrainedTokenizerFast",
            },
            indent=1,
        )
    )
    save_file(weights(config["vocab_size"]), directory / "model.safetensors")


if __name__ == "__main__":
    if sys.argv[2:] == ["embeds"]:
        write_embedder(sys.argv[1])
    else:
        main(pathlib.Path(sys.argv[1]))
