"""Transformers on the same GPU with the same shape: continuous batching, and a compiled loop with a static cache.

    python3 benches/gpu_transformers.py SHAPE [--streams 64] [--context 1024] [--tokens 128]

Random weights in bf16, made on the GPU. Needs torch and transformers 5. Prints a row of Markdown for each; what
of it the installed version cannot do is said, and the rest is measured.
"""

import argparse
import pathlib
import sys
import time

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "tests" / "gpu"))
from model import SHAPES, config  # noqa: E402


def load(shape, attention):
    json = {key: value for key, value in config(shape, "bf16").items() if key != "torch_dtype"}
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(
            LlamaConfig(**json), dtype=torch.bfloat16, attn_implementation=attention)
    return model.eval()


def prompts(shape, streams, context):
    vocab_size = SHAPES[shape][5]
    return [[(stream * 7919 + i * 104729) % vocab_size for i in range(context)] for stream in range(streams)]


def continuous(arguments):
    """Tokens per second of all streams, prompts included in the time, as they are for a server."""
    model = load(arguments.shape, "paged|sdpa")
    inputs = prompts(arguments.shape, arguments.streams, arguments.context)
    generation = GenerationConfig(max_new_tokens=arguments.tokens, do_sample=False, eos_token_id=-1,
                                  pad_token_id=0)
    model.generate_batch(inputs=inputs[:2], generation_config=generation, progress_bar=False)
    begin = time.perf_counter()
    outputs = model.generate_batch(inputs=inputs, generation_config=generation, progress_bar=False)
    seconds = time.perf_counter() - begin
    return sum(len(output.generated_tokens) for output in outputs.values()) / seconds


def static(arguments):
    """Tokens per second of one stream after its prompt."""
    model = load(arguments.shape, "sdpa")
    model.generation_config.cache_implementation = "static"
    model.forward = torch.compile(model.forward, mode="reduce-overhead", fullgraph=True)
    prompt = torch.tensor(prompts(arguments.shape, 1, arguments.context), device="cuda")
    mask = torch.ones_like(prompt)

    def seconds(tokens):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        model.generate(prompt, attention_mask=mask, max_new_tokens=tokens, min_new_tokens=tokens,
                       do_sample=False, pad_token_id=0)
        torch.cuda.synchronize()
        return time.perf_counter() - begin

    for _ in range(3):
        seconds(arguments.tokens)
    few = 8
    return (arguments.tokens - few) / (seconds(arguments.tokens) - seconds(few))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=128)
    arguments = parser.parse_args()
    print("| transformers | streams | tokens/s |\n| --- | --- | --- |")
    runs = [("continuous batching", arguments.streams, continuous), ("static cache, compiled", 1, static)]
    failed = False
    for name, streams, run in runs:
        try:
            print(f"| {name} | {streams} | {run(arguments):.0f} |", flush=True)
        except Exception as error:
            failed = True
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
        torch.cuda.empty_cache()
    sys.exit(failed)


if __name__ == "__main__":
    main()
