"""Tiny random Llamas with their logits by transformers in float32, as the fixtures in `tiny/`.

README.md says how to run this and what the fixtures hold.
"""

import json
import pathlib

import tokenizers
import torch
import transformers
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).with_name("tiny")
VOCAB_SIZE = 288
NUM_PROMPT_TOKENS = 48
POSITIONS = [0, 7, 19, 33, 47]

MODELS = {
    "gqa_tied_bf16": {
        "dtype": torch.bfloat16,
        "config": {"num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": True},
    },
    "llama3_rope_f16_sharded": {
        "dtype": torch.float16,
        "num_shards": 2,
        "config": {
            "num_key_value_heads": 1,
            "head_dim": 16,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        },
    },
    "yarn_wide_heads_f32": {
        "dtype": torch.float32,
        "config": {
            "num_key_value_heads": 2,
            "head_dim": 32,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 500.0,
                "factor": 8.0,
                "beta_fast": 8.0,
                "original_max_position_embeddings": 32,
            },
        },
    },
    "linear_rope_mha_bf16": {
        "dtype": torch.bfloat16,
        "config": {
            "num_key_value_heads": 4,
            "head_dim": 16,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
        },
    },
}


def random_weights(model, seed):
    """Spreads the weights so that every part of the model shows in the logits."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if weight.dim() == 1:
            weight.data = 1.0 + 0.2 * noise
        elif "embed" in name:
            weight.data = noise
        else:
            weight.data = noise * 1.5 / weight.shape[1] ** 0.5


def save_weights(folder, state, num_shards):
    """As `save_pretrained` lays them out."""
    names = sorted(state)
    if num_shards == 1:
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        return
    weight_map = {}
    for shard in range(num_shards):
        file = f"model-{shard + 1:05}-of-{num_shards:05}.safetensors"
        part = names[shard::num_shards]
        save_file({name: state[name] for name in part}, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def byte_level_tokenizer():
    """All bytes, a few merges, and ChatML's special tokens."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    merges = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("i", "n"), ("e", "r"), ("o", "n"), ("Ġ", "a")]
    tokens = specials + alphabet + ["".join(merge) for merge in merges]
    vocab = {token: id for id, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    return tokenizer


CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_text(folder):
    byte_level_tokenizer().save(str(folder / "tokenizer.json"), pretty=False)
    config = {
        "bos_token": "<|endoftext|>",
        "eos_token": {"content": "<|im_end|>", "__type": "AddedToken"},
        "add_bos_token": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    generation = {"bos_token_id": 0, "eos_token_id": [2, 0]}
    (folder / "generation_config.json").write_text(json.dumps(generation) + "\n")


@torch.no_grad()
def make(name, seed, dtype, config, num_shards=1):
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    config = transformers.LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        rms_norm_eps=1e-5,
        attn_implementation="eager",
        bos_token_id=0,
        eos_token_id=2,
        **config,
    )
    config.architectures = ["LlamaForCausalLM"]
    model = transformers.LlamaForCausalLM(config).float().eval()
    random_weights(model, seed)
    # The logits are of the stored values: rounded to the type, computed in float32.
    stored = {
        key: value.to(dtype).contiguous()
        for key, value in model.state_dict().items()
        if not (config.tie_word_embeddings and key == "lm_head.weight")
    }
    model.load_state_dict({key: value.float() for key, value in stored.items()}, strict=False)
    model.tie_weights()
    save_weights(folder, stored, num_shards)
    config.dtype = dtype
    (folder / "config.json").write_text(config.to_json_string(use_diff=False))
    save_text(folder)

    generator = torch.Generator().manual_seed(1000 + seed)
    prompt = torch.randint(0, VOCAB_SIZE, (1, NUM_PROMPT_TOKENS), generator=generator)
    logits = model(prompt).logits[0]
    rows = {position: [round(x, 5) for x in logits[position].tolist()] for position in POSITIONS}
    reference = {"prompt_ids": prompt[0].tolist(), "logits": rows}
    (folder / "logits.json").write_text(json.dumps(reference) + "\n")


if __name__ == "__main__":
    for seed, (name, settings) in enumerate(MODELS.items()):
        make(name, seed, **settings)
