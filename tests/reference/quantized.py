"""Tiny quantized Llamas with their logits by transformers, as the fixtures in `quantized/`.

Each is packed by the definition of its format, dequantized in float64, and computed in float64. Where
compressed-tensors is installed, its own packing must say the same. README.md says how to run this.
"""

import json
import pathlib

import numpy
import torch
import transformers
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).with_name("quantized")
VOCAB_SIZE = 96
NUM_PROMPT_TOKENS = 40
POSITIONS = [0, 17, 39]
# The place of each of eight rows in a word of AWQ.
AWQ = [0, 2, 4, 6, 1, 3, 5, 7]


def words(codes, bits, axis, order=None):
    """Packs codes into 32-bit words along an axis, lowest bits first."""
    codes = numpy.moveaxis(codes.numpy().astype(numpy.int64), axis, -1)
    per_word = 32 // bits
    assert codes.shape[-1] % per_word == 0
    codes = codes.reshape(*codes.shape[:-1], -1, per_word)
    if order is not None:
        codes = codes[..., order]
    packed = sum(codes[..., i] << (bits * i) for i in range(per_word))
    packed = numpy.moveaxis(packed, -1, axis).astype(numpy.uint32).view(numpy.int32)
    return torch.from_numpy(numpy.ascontiguousarray(packed))


def groups_of(weight, group, order):
    """`[rows, groups, group]` of the columns in an order."""
    return weight[:, order].reshape(weight.shape[0], -1, group)


def rounded(weight, bits, group, symmetric, dtype, order=None):
    """Codes and the elements that they stand for, scales and zero points `[rows, groups]`."""
    order = torch.arange(weight.shape[1]) if order is None else order
    grouped, most = groups_of(weight, group, order), 2**bits - 1
    if symmetric:
        scales = grouped.abs().amax(-1) * 2 / most
        zeros = torch.full_like(scales, 2 ** (bits - 1))
    else:
        least, greatest = grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
        scales = (greatest - least) / most
        zeros = (-least / scales).round().clamp(1, most)
    scales = scales.to(dtype).double()
    codes = (grouped / scales[..., None]).round() + zeros[..., None]
    codes = codes.clamp(0, most)
    elements = (codes - zeros[..., None]) * scales[..., None]
    back = torch.argsort(order)
    flat = lambda x: x.reshape(weight.shape)[:, back]
    return flat(codes).long(), flat(elements), scales, zeros.long()


def gptq(weight, generator, bits, group, symmetric, below, act_order=False):
    k = weight.shape[1]
    group = k if group == -1 else group
    order = torch.randperm(k, generator=generator) if act_order else torch.arange(k)
    codes, elements, scales, zeros = rounded(weight, bits, group, symmetric, torch.float16, order)
    g_idx = torch.empty(k, dtype=torch.int32)
    g_idx[order] = torch.arange(k, dtype=torch.int32) // group
    tensors = {
        "qweight": words(codes.T, bits, 0),
        "qzeros": words(zeros.T - below, bits, 1),
        "scales": scales.T.half().contiguous(),
        "g_idx": g_idx,
        # As AutoGPTQ writes it, of a model that has none.
        "bias": torch.zeros(weight.shape[0], dtype=torch.float16),
    }
    return tensors, elements


def awq(weight, _, group):
    codes, elements, scales, zeros = rounded(weight, 4, group, False, torch.float16)
    tensors = {
        "qweight": words(codes.T, 4, 1, AWQ),
        "qzeros": words(zeros.T, 4, 1, AWQ),
        "scales": scales.T.half().contiguous(),
    }
    return tensors, elements


def check_packing(tensors, codes, zeros, bits):
    try:
        from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
    except ImportError:
        return
    signed = lambda codes: (codes - 2 ** (bits - 1)).to(torch.int8)
    assert torch.equal(tensors["weight_packed"], pack_to_int32(signed(codes), bits))
    if "weight_zero_point" in tensors:
        given = tensors["weight_zero_point"]
        assert torch.equal(given, pack_to_int32(signed(zeros), bits, packed_dim=0))


def packed(weight, generator, bits, group, symmetric, act_order=False):
    """compressed-tensors' `pack-quantized`."""
    k = weight.shape[1]
    group = k if group == -1 else group
    order = torch.randperm(k, generator=generator) if act_order else torch.arange(k)
    codes, elements, scales, zeros = rounded(weight, bits, group, symmetric, torch.bfloat16, order)
    tensors = {
        "weight_packed": words(codes, bits, 1),
        "weight_scale": scales.bfloat16().contiguous(),
        "weight_shape": torch.tensor(weight.shape, dtype=torch.int64),
    }
    if not symmetric:
        tensors["weight_zero_point"] = words(zeros, bits, 0)
    if act_order:
        tensors["weight_g_idx"] = torch.empty(k, dtype=torch.int32)
        tensors["weight_g_idx"][order] = torch.arange(k, dtype=torch.int32) // group
    check_packing(tensors, codes, zeros, bits)
    return tensors, elements


def signed_bytes(weight, _):
    """compressed-tensors' `int-quantized`."""
    codes, elements, scales, _ = rounded(weight, 8, weight.shape[1], True, torch.bfloat16)
    tensors = {
        "weight": (codes - 128).to(torch.int8).contiguous(),
        "weight_scale": scales.bfloat16().contiguous(),
    }
    return tensors, elements


def e4m3(weight, scales):
    codes = (weight / scales).float().clamp(-448, 448).to(torch.float8_e4m3fn)
    return codes, codes.double() * scales


def fp8_rows(weight, _):
    """compressed-tensors' `float-quantized` with a scale per row; so is fbgemm's."""
    scales = (weight.abs().amax(1, keepdim=True) / 448).float()
    codes, elements = e4m3(weight, scales.double())
    return {"weight": codes, "weight_scale": scales}, elements


def fp8_tensor(weight, _):
    """One scale, and a fixed one for activations, which is of no use here."""
    scale = (weight.abs().max() / 448).float()
    codes, elements = e4m3(weight, scale.double())
    return {"weight": codes, "weight_scale": scale, "input_scale": torch.tensor(0.5)}, elements


def fp8_blocks(weight, _):
    """DeepSeek's and Qwen's blocks of 128 by 128, of which matrices need not be multiples."""
    n, k = weight.shape
    scales = torch.empty(-(-n // 128), -(-k // 128))
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            block = weight[128 * i : 128 * i + 128, 128 * j : 128 * j + 128]
            scales[i, j] = block.abs().max() / 448
    spread = scales.double().repeat_interleave(128, 0).repeat_interleave(128, 1)[:n, :k]
    codes, elements = e4m3(weight, spread)
    return {"weight": codes, "weight_scale_inv": scales}, elements


def of_groups(weights, format, activations=None):
    """compressed-tensors' configuration."""
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations}
    return {
        "quant_method": "compressed-tensors",
        "format": format,
        "config_groups": {"group_0": group | {"output_activations": None}},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "quantization_status": "compressed",
    }


def ints(bits, group, symmetric, **more):
    strategy = "channel" if group == -1 else "group"
    size = None if group == -1 else group
    return {
        "num_bits": bits, "type": "int", "strategy": strategy, "group_size": size,
        "symmetric": symmetric, "dynamic": False,
    } | more


GPTQ = {"quant_method": "gptq", "lm_head": False, "true_sequential": True}
FLOATS = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False}
PER_TOKEN = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True, "symmetric": True}

MODELS = {
    "gptq_4bit": (
        lambda *a: gptq(*a, bits=4, group=64, symmetric=True, below=1),
        GPTQ | {"bits": 4, "group_size": 64, "sym": True, "desc_act": False},
    ),
    "gptq_v2_4bit_asymmetric": (
        lambda *a: gptq(*a, bits=4, group=32, symmetric=False, below=0),
        GPTQ | {"bits": 4, "group_size": 32, "sym": False, "desc_act": False,
                "checkpoint_format": "gptq_v2"},
    ),
    "gptq_4bit_act_order": (
        lambda *a: gptq(*a, bits=4, group=32, symmetric=False, below=1, act_order=True),
        GPTQ | {"bits": 4, "group_size": 32, "sym": False, "desc_act": True},
    ),
    "gptq_8bit": (
        lambda *a: gptq(*a, bits=8, group=-1, symmetric=True, below=1),
        GPTQ | {"bits": 8, "group_size": -1, "sym": True, "desc_act": False},
    ),
    "gptq_8bit_asymmetric": (
        lambda *a: gptq(*a, bits=8, group=32, symmetric=False, below=1),
        GPTQ | {"bits": 8, "group_size": 32, "sym": False, "desc_act": False},
    ),
    "awq": (
        lambda *a: awq(*a, group=32),
        {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True,
         "version": "gemm", "modules_to_not_convert": None},
    ),
    "compressed_w4a16": (
        lambda *a: packed(*a, bits=4, group=32, symmetric=True),
        of_groups(ints(4, 32, True), "pack-quantized"),
    ),
    "compressed_w4a16_asymmetric": (
        lambda *a: packed(*a, bits=4, group=64, symmetric=False, act_order=True),
        of_groups(ints(4, 64, False, actorder="group"), "pack-quantized"),
    ),
    "compressed_w8a16": (
        lambda *a: packed(*a, bits=8, group=-1, symmetric=True),
        of_groups(ints(8, -1, True), "pack-quantized"),
    ),
    "compressed_w8a8_int": (
        signed_bytes,
        of_groups(ints(8, -1, True), "int-quantized",
                  ints(8, -1, True) | {"strategy": "token", "dynamic": True}),
    ),
    "compressed_fp8": (fp8_rows, of_groups(FLOATS, "float-quantized", PER_TOKEN)),
    "fp8_tensor": (
        fp8_tensor,
        {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]},
    ),
    "fp8_blocks": (
        fp8_blocks,
        {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3",
         "weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head"]},
    ),
}


def shape():
    """Of a width that is no multiple of 128."""
    config = transformers.LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=256,
        rms_norm_eps=1e-5,
        attn_implementation="eager",
        bos_token_id=0,
        eos_token_id=2,
    )
    config.architectures = ["LlamaForCausalLM"]
    return config


@torch.no_grad()
def make(seed, name, pack, quantization):
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    config, generator = shape(), torch.Generator().manual_seed(seed)
    model = transformers.LlamaForCausalLM(config).double().eval()
    floats = torch.float16 if "gptq" in name or name == "awq" else torch.bfloat16
    stored = {}
    for key, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        if weight.dim() == 1:
            weight.data = 1.0 + 0.2 * noise
        else:
            weight.data = noise * (1.0 if "embed" in key else 1.5 / weight.shape[1] ** 0.5)
        if not key.endswith("_proj.weight"):
            stored[key] = weight.data.to(floats)
            weight.data = stored[key].double()
            continue
        tensors, weight.data = pack(weight.data, generator)
        module = key.removesuffix(".weight")
        stored |= {f"{module}.{part}": tensor for part, tensor in tensors.items()}
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    json_config = config.to_dict() | {"quantization_config": quantization}
    json_config["dtype"] = str(floats).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(json_config, indent=1, sort_keys=True) + "\n")
    ids = torch.randint(VOCAB_SIZE, (1, NUM_PROMPT_TOKENS), generator=generator)
    logits = model(ids).logits[0]
    fixture = {
        "prompt_ids": ids[0].tolist(),
        "logits": {str(at): [round(x, 5) for x in logits[at].tolist()] for at in POSITIONS},
    }
    (folder / "logits.json").write_text(json.dumps(fixture) + "\n")


if __name__ == "__main__":
    for seed, (name, (pack, quantization)) in enumerate(MODELS.items()):
        make(seed, name, pack, quantization)
