"""Tiny random models with their embeddings and logits by transformers in float32, as the fixtures
in `embedders/`.

README.md says how to run this and what the fixtures hold.
"""

import json
import pathlib

import torch
import transformers

OUT = pathlib.Path(__file__).with_name("embedders")
VOCAB_SIZE = 48
MAX_TOKENS = 40
LENS = [1, 2, 17, 40]

ENCODER = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
DISTILBERT = {
    "vocab_size": VOCAB_SIZE,
    "dim": 32,
    "hidden_dim": 64,
    "n_layers": 2,
    "n_heads": 2,
    "max_position_embeddings": MAX_TOKENS,
}
# Positions begin after the padding's.
ROBERTA = ENCODER | {
    "max_position_embeddings": MAX_TOKENS + 2,
    "type_vocab_size": 1,
    "pad_token_id": 1,
    "layer_norm_eps": 1e-5,
}
DECODER = ENCODER | {
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 2,
}

# Architecture, settings, pooling mode ("" for a classifier), whether vectors get length 1.
MODELS = {
    "distilbert": ("DistilBertModel", DISTILBERT, "mean_tokens", False),
    "distilbert_classifier": (
        "DistilBertForSequenceClassification",
        DISTILBERT | {"num_labels": 1},
        "",
        False,
    ),
    "roberta": ("RobertaModel", ROBERTA, "cls_token", False),
    "roberta_classifier": (
        "RobertaForSequenceClassification", ROBERTA | {"num_labels": 2}, "", False
    ),
    "xlm_roberta": ("XLMRobertaModel", ROBERTA, "mean_tokens", True),
    "xlm_roberta_classifier": (
        "XLMRobertaForSequenceClassification", ROBERTA | {"num_labels": 1}, "", False
    ),
    "llama": ("LlamaModel", DECODER, "lasttoken", True),
    # A window that is narrower than the context, and no narrower than what is embedded.
    "mistral": ("MistralModel", DECODER | {"sliding_window": MAX_TOKENS}, "mean_tokens", False),
}


def random_weights(model, seed):
    """Spreads the weights so that every part of the model shows in what comes out."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if weight.dim() == 1:
            weight.data = 0.3 * noise + (1.0 if "norm" in name.lower() and "bias" not in name else 0)
        elif "embed" in name:
            weight.data = noise
        else:
            weight.data = noise * 1.5 / weight.shape[1] ** 0.5


def save_modules(folder, mode, normalize):
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
    (folder / "modules.json").write_text(json.dumps(modules, indent=1) + "\n")
    modes = ["cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "lasttoken"]
    pooling = {"word_embedding_dimension": 32, "include_prompt": True}
    pooling |= {f"pooling_mode_{name}": name == mode for name in modes}
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling, indent=1) + "\n")
    sentence = {"max_seq_length": MAX_TOKENS, "do_lower_case": False}
    (folder / "sentence_bert_config.json").write_text(json.dumps(sentence) + "\n")


def pool(states, mode, normalize):
    pooled = {
        "cls_token": states[0], "lasttoken": states[-1], "mean_tokens": states.mean(0)
    }[mode]
    return pooled / pooled.norm() if normalize else pooled


@torch.no_grad()
def make(name, seed, architecture, settings, mode, normalize):
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    kind = getattr(transformers, architecture)
    model = kind(kind.config_class(**settings, attn_implementation="eager")).float().eval()
    random_weights(model, seed)
    model.save_pretrained(folder)
    if mode:
        save_modules(folder, mode, normalize)
    generator = torch.Generator().manual_seed(1000 + seed)
    # None of them is padding.
    inputs = [torch.randint(3, VOCAB_SIZE, (1, length), generator=generator) for length in LENS]
    vectors = []
    for ids in inputs:
        answer = model(ids)
        vector = pool(answer.last_hidden_state[0], mode, normalize) if mode else answer.logits[0]
        vectors.append([round(x, 6) for x in vector.tolist()])
    reference = {"inputs": [ids[0].tolist() for ids in inputs], "vectors": vectors}
    (folder / "vectors.json").write_text(json.dumps(reference) + "\n")


if __name__ == "__main__":
    for seed, (name, model) in enumerate(MODELS.items()):
        make(name, seed, *model)
