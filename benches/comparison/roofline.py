"""What the machine could do at best with a model, by its memory and its multipliers.

A step reads every weight once, as the file has it, and the keys and values of its streams, and
multiplies each token with every weight. What takes longer of the two bounds the rate. Whatever
else a step does (norms, scales, sampling) is not counted: nothing reaches the bound.
"""

import json
import subprocess

# The weights that the narrow products of an instruction set take; all others take the wide ones.
FOUR_BIT = {"Q4_0", "Q4_1", "Q4_K", "Q2_K", "Q3_K"}
FLOAT = {"F32", "F16", "BF16"}


def probe(binary, threads):
    """What the machine does now: see `kernels/benches/roofline.rs`."""
    run = subprocess.run([binary, str(threads), "--json"], capture_output=True, check=True)
    return json.loads(run.stdout)


def multiply_seconds(tensors, machine):
    """Seconds to multiply one token with the tensors."""
    seconds = 0.0
    for tensor in tensors:
        kind = "int4" if tensor.type in FOUR_BIT else "f32" if tensor.type in FLOAT else "int8"
        seconds += tensor.macs / machine[f"{kind}_macs"]
    return seconds


def bound(workload, model, machine):
    """The greatest rate of a workload, in tokens per second; None where it isn't a rate."""
    body, head = (multiply_seconds(t, machine) for t in (model.body, [model.head]))
    if workload.kind == "decode":
        # On average over the run.
        context = workload.prompt + workload.tokens / 2
        attention = context * model.attention_macs / machine["kv_macs"]
        compute = body + head + attention
        read = model.weight_bytes / workload.streams + context * model.kv_bytes
        return 1 / max(compute, read / machine["read_bytes"])
    if workload.kind == "prefill":
        length = workload.prompt
        positions = length * (length + 1) / 2
        attention = positions * model.attention_macs / machine["kv_macs"]
        compute = length * body + head + attention
        read = model.weight_bytes + length * model.kv_bytes
        return length / max(compute, read / machine["read_bytes"])
    return None
