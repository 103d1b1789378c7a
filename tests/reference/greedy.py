"""Greedy completions of a GGUF llama by transformers in float32, as the fixture `greedy.json`.

The weights are dequantised by gguf-py and run by transformers' LlamaForCausalLM on the CPU: no
line of Sconce takes part. README.md says how to run this and what the fixture holds.
"""

import argparse
import hashlib
import json
import pathlib

import gguf
import numpy
import torch
import transformers

from vocabulary import original_tokenizer

NUM_TOKENS = 64

CHATS = [
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "Explain in two sentences why the sky is blue.",
    "List three prime numbers larger than 100.",
    "Translate to German: The weather is nice today.",
    "Write a Python function that reverses a list.",
    "Who wrote Romeo and Juliet?",
    "What is 17 + 25?",
    "Give me a recipe for pancakes.",
    "Résumé, naïve, 東京, 🙂: which of these are English words?",
]

TEXTS = [
    "Once upon a time, in a village at the foot of a mountain,",
    "The quick brown fox",
    "def fibonacci(n):\n    if n < 2:\n        return n\n",
    "In 1969, the first humans landed on",
    "1, 2, 3, 4, 5,",
    "A",
    "The following is a list of the planets of the solar system:\n\n1. Mercury\n2.",
    "SELECT name, COUNT(*) FROM orders WHERE",
    "It was the best of times, it was the worst of times. " * 12,
    "Water boils at 100 degrees. " * 40 + "Ice melts at",
]


def unpermute(weight, num_heads):
    """GGUF pairs dimensions 2i and 2i+1 of a head, transformers i and i + half."""
    rows, cols = weight.shape
    pairs = weight.reshape(num_heads, rows // num_heads // 2, 2, cols)
    return pairs.swapaxes(1, 2).reshape(rows, cols)


def field(reader, key):
    return reader.fields[key].contents()


def load(reader):
    """The model with its dequantised weights."""
    config = transformers.LlamaConfig(
        vocab_size=len(field(reader, "tokenizer.ggml.tokens")),
        hidden_size=field(reader, "llama.embedding_length"),
        intermediate_size=field(reader, "llama.feed_forward_length"),
        num_hidden_layers=field(reader, "llama.block_count"),
        num_attention_heads=field(reader, "llama.attention.head_count"),
        num_key_value_heads=field(reader, "llama.attention.head_count_kv"),
        max_position_embeddings=field(reader, "llama.context_length"),
        rms_norm_eps=field(reader, "llama.attention.layer_norm_rms_epsilon"),
        rope_parameters={
            "rope_type": "default",
            "rope_theta": field(reader, "llama.rope.freq_base"),
        },
        tie_word_embeddings=not any(t.name == "output.weight" for t in reader.tensors),
        attn_implementation="eager",
    )
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    model = transformers.LlamaForCausalLM(config).float().eval()
    by_gguf_name = {
        names.get_name(name, try_suffixes=(".weight",)): name for name in model.state_dict()
    }
    state = {}
    for tensor in reader.tensors:
        weight = gguf.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        if ".attn_q." in tensor.name:
            weight = unpermute(weight, config.num_attention_heads)
        if ".attn_k." in tensor.name:
            weight = unpermute(weight, config.num_key_value_heads)
        state[by_gguf_name[tensor.name]] = torch.from_numpy(numpy.ascontiguousarray(weight))
    missing, unexpected = model.load_state_dict(state, strict=False)
    tied = ["lm_head.weight"] if config.tie_word_embeddings else []
    assert list(missing) == tied and not unexpected, (missing, unexpected)
    model.tie_weights()
    return model


@torch.no_grad()
def complete(model, prompt_ids):
    """The likeliest tokens one after the other, and the two best logits of each step."""
    output_ids, top2 = [], []
    ids, cache = torch.tensor([prompt_ids]), None
    for _ in range(NUM_TOKENS):
        out = model(ids, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        best = out.logits[0, -1].topk(2)
        tokens, logits = best.indices.tolist(), best.values.tolist()
        output_ids.append(tokens[0])
        top2.append([tokens[0], round(logits[0], 5), tokens[1], round(logits[1], 5)])
        ids = torch.tensor([[tokens[0]]])
    return output_ids, top2


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=pathlib.Path, help="a GGUF file")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).with_name("greedy.json"))
    args = parser.parse_args()

    reader = gguf.GGUFReader(args.model)
    template = field(reader, "tokenizer.chat_template")
    tokenizer = original_tokenizer(args.model)
    model = load(reader)
    environment = transformers.utils.chat_template_utils._compile_jinja_template(template)
    prompts = [
        environment.render(
            messages=[{"role": "user", "content": chat}], add_generation_prompt=True
        )
        for chat in CHATS
    ] + TEXTS

    references = []
    for text in prompts:
        prompt_ids = tokenizer.encode(text, add_special_tokens=False).ids
        output_ids, top2 = complete(model, prompt_ids)
        references.append(
            {"text": text, "prompt_ids": prompt_ids, "output_ids": output_ids, "top2": top2}
        )
        print(len(references), repr(tokenizer.decode(output_ids)[:60]), flush=True)
    fixture = {
        "model_sha256": hashlib.sha256(args.model.read_bytes()).hexdigest(),
        "made_with": f"transformers {transformers.__version__}, torch {torch.__version__}, float32",
        "references": references,
    }
    lines = ",\n".join(json.dumps(reference) for reference in fixture.pop("references"))
    head = json.dumps(fixture)[:-1]
    args.out.write_text(f'{head}, "references": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
