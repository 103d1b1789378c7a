"""GGUF files of a known model's exact shape with random weights, for speed and memory alone.

What a forward pass costs depends on the shape and the quantisation, not on what the weights say,
so that nothing need be downloaded. The tokenizer is another model's, padded with unused tokens to
the shape's vocabulary. Needs numpy and gguf (PyPI); `benches/compare.sh` installs them.
"""

import argparse
import math
import pathlib
import subprocess
import sys
from dataclasses import dataclass

import gguf
import numpy

QUANTS = ["q4_k_m", "q8_0", "q4_0"]


@dataclass(frozen=True)
class Shape:
    """As the model's config.json has it."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    context: int
    rope_theta: float
    rms_norm_eps: float
    qkv_bias: bool
    # Llama 3's stretched frequencies: factor, low and high factor, original context.
    rope_scaling: tuple | None = None


SHAPES = {
    shape.name: shape
    for shape in [
        Shape("qwen2.5-0.5b", hidden=896, layers=24, heads=14, kv_heads=2, head_dim=64, ffn=4864,
              vocab=151936, context=32768, rope_theta=1e6, rms_norm_eps=1e-6, qkv_bias=True),
        Shape("llama-3.2-1b", hidden=2048, layers=16, heads=32, kv_heads=8, head_dim=64, ffn=8192,
              vocab=128256, context=131072, rope_theta=5e5, rms_norm_eps=1e-5, qkv_bias=False,
              rope_scaling=(32.0, 1.0, 4.0, 8192)),
    ]
}


def add_metadata(writer, shape):
    writer.add_name(f"random {shape.name}")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(shape.rms_norm_eps)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_vocab_size(shape.vocab)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)


def add_tokenizer(writer, source, vocab):
    """The source file's, with tokens that nothing is ever split into at the end."""
    fields = gguf.GGUFReader(source).fields
    value = {name: field.contents() for name, field in fields.items()
             if name.startswith("tokenizer.")}
    tokens = value["tokenizer.ggml.tokens"]
    padding = vocab - len(tokens)
    writer.add_tokenizer_model(value["tokenizer.ggml.model"])
    writer.add_tokenizer_pre(value["tokenizer.ggml.pre"])
    writer.add_token_list(tokens + [f"<unused_{i}>" for i in range(padding)])
    # Ordinary tokens, not unused ones: a random model says them, and they must be written out.
    types = value["tokenizer.ggml.token_type"] + [gguf.TokenType.NORMAL] * padding
    writer.add_token_types(types)
    writer.add_token_merges(value["tokenizer.ggml.merges"])
    writer.add_bos_token_id(value["tokenizer.ggml.bos_token_id"])
    writer.add_eos_token_id(value["tokenizer.ggml.eos_token_id"])
    writer.add_add_bos_token(False)


def rope_factors(shape):
    """What Llama 3 divides each frequency by."""
    factor, low, high, original = shape.rope_scaling
    factors = []
    for i in range(shape.head_dim // 2):
        wavelength = 2 * math.pi * shape.rope_theta ** (2 * i / shape.head_dim)
        if wavelength < original / high:
            factors.append(1.0)
        elif wavelength > original / low:
            factors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return numpy.array(factors, dtype=numpy.float32)


def tensors(shape):
    """Names and shapes, output features first. The head is the embedding."""
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    yield "token_embd.weight", (shape.vocab, shape.hidden)
    yield "output_norm.weight", (shape.hidden,)
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        yield block + "attn_norm.weight", (shape.hidden,)
        for name, rows in [("q", q), ("k", kv), ("v", kv)]:
            yield f"{block}attn_{name}.weight", (rows, shape.hidden)
            if shape.qkv_bias:
                yield f"{block}attn_{name}.bias", (rows,)
        yield block + "attn_output.weight", (shape.hidden, q)
        yield block + "ffn_norm.weight", (shape.hidden,)
        yield block + "ffn_gate.weight", (shape.ffn, shape.hidden)
        yield block + "ffn_up.weight", (shape.ffn, shape.hidden)
        yield block + "ffn_down.weight", (shape.hidden, shape.ffn)


def random_tensor(random, name, shape):
    if name.endswith("norm.weight"):
        return numpy.ones(shape, dtype=numpy.float32)
    values = random.standard_normal(math.prod(shape), dtype=numpy.float32) * numpy.float32(0.02)
    values = values.reshape(shape)
    return values if name.endswith("bias") else values.astype(numpy.float16)


def write_f16(path, shape, tokenizer):
    # Both servers know biases and either order of rotated dimensions in the Llama architecture,
    # and neither costs more in one than in the other.
    writer = gguf.GGUFWriter(path, "llama")
    add_metadata(writer, shape)
    add_tokenizer(writer, tokenizer, shape.vocab)
    if shape.rope_scaling:
        writer.add_tensor("rope_freqs.weight", rope_factors(shape))
    random = numpy.random.default_rng(1)
    for name, dimensions in tensors(shape):
        writer.add_tensor(name, random_tensor(random, name, dimensions))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make(options):
    """The wanted files' paths. If one is missing all are made: what takes long is the f16 file."""
    shape = SHAPES[options.shape]
    directory = pathlib.Path(options.directory)
    directory.mkdir(parents=True, exist_ok=True)
    paths = {quant: directory / f"{shape.name}-{quant}.gguf" for quant in QUANTS}
    wanted = [paths[quant] for quant in options.quants]
    if all(path.exists() for path in wanted):
        return wanted
    f16 = directory / f"{shape.name}-f16.gguf"
    print(f"writing {f16.name}", file=sys.stderr, flush=True)
    write_f16(f16, shape, options.tokenizer)
    for quant, path in paths.items():
        print(f"writing {path.name}", file=sys.stderr, flush=True)
        partial = path.with_suffix(".partial")
        subprocess.run([options.llama_quantize, f16, partial, quant], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        partial.rename(path)
    f16.unlink()
    return wanted


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("quants", nargs="+", choices=QUANTS)
    parser.add_argument("--directory", default="target/peer/models", help="where the files stay")
    parser.add_argument("--tokenizer", required=True, help="the GGUF file whose tokenizer to take")
    parser.add_argument("--llama-quantize", required=True)
    options = parser.parse_args()
    for path in make(options):
        print(path)


if __name__ == "__main__":
    main()
