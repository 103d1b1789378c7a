"""A GGUF file's hyperparameters and tensors: what a forward pass reads and multiplies."""

import collections
import math
import struct
from dataclasses import dataclass

# Of each tensor type: name, elements of a block, bytes of a block.
TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210),
    30: ("BF16", 1, 2),
}
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q",
           12: "d"}
STRING, ARRAY = 8, 9


@dataclass(frozen=True)
class Tensor:
    type: str
    shape: tuple
    bytes: int

    @property
    def macs(self):
        """Multiplications with one token."""
        return math.prod(self.shape)


class Model:
    """The header of a file."""

    def __init__(self, path):
        self.file = open(path, "rb")
        with self.file:
            magic, _, num_tensors, num_values = struct.unpack("<4sIQQ", self.file.read(24))
            if magic != b"GGUF":
                raise ValueError(f"{path} is not a GGUF file")
            self.values = dict(self.value() for _ in range(num_values))
            self.tensors = dict(self.tensor() for _ in range(num_tensors))
        self.head = self.tensors.get("output.weight") or self.tensors["token_embd.weight"]
        self.body = [tensor for name, tensor in self.tensors.items()
                     if name.startswith("blk.") and len(tensor.shape) == 2]

    def scalar(self, code):
        layout = "<" + SCALARS[code]
        return struct.unpack(layout, self.file.read(struct.calcsize(layout)))[0]

    def string(self):
        return self.file.read(self.scalar(10)).decode(errors="replace")

    def any(self, code):
        if code == STRING:
            return self.string()
        if code == ARRAY:
            element, count = self.scalar(4), self.scalar(10)
            return [self.any(element) for _ in range(count)]
        return self.scalar(code)

    def value(self):
        return self.string(), self.any(self.scalar(4))

    def tensor(self):
        name = self.string()
        shape = tuple(self.scalar(10) for _ in range(self.scalar(4)))
        type_name, block, block_bytes = TYPES[self.scalar(4)]
        self.scalar(10)
        return name, Tensor(type_name, shape, math.prod(shape) // block * block_bytes)

    def number(self, key, default=None):
        architecture = self.values["general.architecture"]
        return self.values.get(f"{architecture}.{key}", default)

    @property
    def layers(self):
        return self.number("block_count")

    @property
    def heads(self):
        return self.number("attention.head_count")

    @property
    def kv_heads(self):
        return self.number("attention.head_count_kv", self.heads)

    @property
    def head_dim(self):
        return self.number("attention.key_length", self.number("embedding_length") // self.heads)

    @property
    def weight_bytes(self):
        """Bytes that a step reads, whatever it computes: all matrices but an embedding table."""
        return sum(tensor.bytes for tensor in self.body) + self.head.bytes

    @property
    def kv_bytes(self):
        """Bytes of a token's keys and values at half precision."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_dim

    @property
    def attention_macs(self):
        """Multiplications of one token with one position: its key, then its value."""
        return 2 * self.layers * self.heads * self.head_dim

    @property
    def formats(self):
        """The types that the matrices really have, by their share of the bytes."""
        sizes = collections.Counter()
        for tensor in [*self.body, self.head]:
            sizes[tensor.type] += tensor.bytes
        total = sizes.total()
        return ", ".join(f"{name} {size / total:.0%}" for name, size in sizes.most_common())
