"""Tiny random decoders with their logits by transformers in float32, as the fixtures in `tiny/`.

README.md says how to run this and what the fixtures hold. Names as arguments: those alone.
"""

import json
import pathlib
import sys
import tempfile

import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file

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
    "mistral_window_bf16": {
        "model": "Mistral",
        "dtype": torch.bfloat16,
        "config": {"num_key_value_heads": 2, "head_dim": 16, "sliding_window": 11},
    },
    "qwen2_biases_tied_f32": {
        "model": "Qwen2",
        "dtype": torch.float32,
        "config": {
            "num_key_value_heads": 2,
            "head_dim": 16,
            "tie_word_embeddings": True,
            "use_sliding_window": True,
            "sliding_window": 9,
            "max_window_layers": 1,
        },
    },
    "qwen3_bf16": {
        "model": "Qwen3",
        "dtype": torch.bfloat16,
        "config": {"num_key_value_heads": 2, "head_dim": 32, "tie_word_embeddings": True},
    },
    "qwen3_moe_bf16": {
        "model": "Qwen3Moe",
        "dtype": torch.bfloat16,
        "config": {
            "num_key_value_heads": 2,
            "head_dim": 16,
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 24,
            "norm_topk_prob": True,
        },
    },
    "mixtral_f32": {
        "model": "Mixtral",
        "dtype": torch.float32,
        "config": {
            "num_key_value_heads": 2,
            "head_dim": 16,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
        },
    },
    "gemma2_bf16": {
        "model": "Gemma2",
        "dtype": torch.bfloat16,
        "config": {
            "num_key_value_heads": 2,
            "head_dim": 16,
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 5.0,
            "sliding_window": 10,
        },
    },
    "gemma3_f32": {
        "model": "Gemma3",
        "dtype": torch.float32,
        "config": {
            "num_hidden_layers": 3,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "query_pre_attn_scalar": 20,
            "sliding_window": 10,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            },
        },
    },
    "phi3_bf16": {
        "model": "Phi3",
        "dtype": torch.bfloat16,
        "config": {
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "sliding_window": 12,
            "pad_token_id": 0,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 0.5,
            },
        },
    },
}


def random_weights(model, seed):
    """Spreads the weights so that every part of the model shows in the logits."""
    # Gemma adds one to the weights of its norms.
    mean = 0.0 if "Gemma" in type(model).__name__ else 1.0
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if name.endswith("bias"):
            weight.data = noise * 0.5
        elif weight.dim() == 1:
            weight.data = mean + 0.2 * noise
        elif "embed" in name:
            weight.data = noise
        else:
            weight.data = noise * 1.5 / weight.shape[-1] ** 0.5


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


def state_as_saved(model):
    """By the names of files, which for some are not those of the modules."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_file(pathlib.Path(folder) / "model.safetensors")


@torch.no_grad()
def make(name, seed, dtype, config, num_shards=1, model="Llama"):
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    shape = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "attn_implementation": "eager",
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    of_config = "Gemma3Text" if model == "Gemma3" else model
    config = getattr(transformers, f"{of_config}Config")(**(shape | config))
    config.architectures = [f"{model}ForCausalLM"]
    model = getattr(transformers, f"{model}ForCausalLM")(config).float().eval()
    random_weights(model, seed)
    # The logits are of the stored values: rounded to the type, computed in float32.
    for weight in model.parameters():
        weight.data = weight.data.to(dtype).float()
    model.tie_weights()
    stored = {
        key: value.to(dtype).contiguous()
        for key, value in state_as_saved(model).items()
        if not (config.tie_word_embeddings and key == "lm_head.weight")
    }
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
        if name in sys.argv[1:] or not sys.argv[1:]:
            make(name, seed, **settings)
