"""Packed files taken apart, changed and put together again, without the code that is tested."""

import hashlib
import json
from collections.abc import Iterable
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import deserialize
from torch import Tensor

from tribin.packed.format import write_packed

CHECKSUM = slice(49, 113)  # as docs/packed_format.md has it

Item = tuple[str, list[int], bytes]
"""A tensor's dtype as safetensors names it, its shape, and its bytes."""


def small_tensors() -> dict[str, Tensor]:
    """All dtypes, two lists, a scalar, an empty tensor and one that can't be stacked."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for block in range(2):
        bits = torch.randint(-(2**31), 2**31, (3, 2), generator=generator)
        tensors[f"blocks.{block}.weight_bits"] = bits.to(torch.int32)
        for part in range(3):
            scale = torch.randn(2, generator=generator)
            tensors[f"blocks.{block}.parts.{part}.scale"] = scale.bfloat16()
    tensors["stem.1.weight"] = torch.randn(2, 3, generator=generator)
    tensors["temperature"] = torch.tensor(0.5)
    tensors["nothing"] = torch.empty(0, 3)
    return tensors


def small_file(path: Path) -> bytes:
    """The bytes of a packed file of `small_tensors`."""
    write_packed(path, small_tensors(), {"tribin": "0.1.0", "model": None, "levels": [256, 0.5]})
    return path.read_bytes()


def take_apart(data: bytes) -> tuple[str, bytes]:
    """A file's index and payload."""
    length = int.from_bytes(data[:8], "little")
    return data[8 : 8 + length].decode(), data[8 + length :]


def put_together(index: str | dict[str, Any], payload: bytes) -> bytes:
    """A file with the checksum that its bytes have."""
    text = index if isinstance(index, str) else json.dumps(index, separators=(",", ":"))
    encoded = text.encode("utf-8", "surrogatepass")
    encoded += b" " * (-len(encoded) % 8)
    return with_checksum(len(encoded).to_bytes(8, "little") + encoded + payload)


def with_checksum(data: bytes) -> bytes:
    """The file with its checksum made right, wherever the right place still is one."""
    if len(data) < CHECKSUM.stop:
        return data
    before, after = data[: CHECKSUM.start], data[CHECKSUM.stop :]
    return before + hashlib.sha256(before + b"0" * 64 + after).hexdigest().encode() + after


def with_header(data: bytes, **changes: Any) -> bytes:
    """The file with other values in its header."""
    index, payload = take_apart(data)
    entries = json.loads(index)
    header = json.loads(entries["__metadata__"]["tribin"]) | changes
    entries["__metadata__"]["tribin"] = json.dumps(header, separators=(",", ":"))
    return put_together(entries, payload)


def with_entry(data: bytes, name: str, **changes: Any) -> bytes:
    """The file with other fields in the entry of a tensor."""
    index, payload = take_apart(data)
    entries = json.loads(index)
    entries[name] |= changes
    return put_together(entries, payload)


def header_of(data: bytes) -> dict[str, Any]:
    """The header that a file's bytes spell."""
    return json.loads(json.loads(take_apart(data)[0])["__metadata__"]["tribin"])


def items_of(data: bytes) -> dict[str, Item]:
    """The tensors that a file's bytes spell: read by safetensors itself, then unstacked."""
    items = {}
    for name, tensor in deserialize(data):
        stars = name.split(".").count("*")
        lengths, shape = tensor["shape"][:stars], tensor["shape"][stars:]
        size = len(tensor["data"]) // prod(lengths)
        for number, indices in enumerate(product(*map(range, lengths))):
            member = bytes(tensor["data"][number * size :][:size])
            items[fill(name, indices)] = (tensor["dtype"], shape, member)
    return items


def fill(name: str, indices: Iterable[int]) -> str:
    """A stacked name with its first ``*`` replaced by the first index, and so on."""
    for index in indices:
        name = name.replace("*", str(index), 1)
    return name


def as_item(tensor: Tensor) -> Item:
    """A tensor in the form of `items_of`."""
    dtype = {torch.int32: "I32", torch.int64: "I64", torch.float32: "F32", torch.bfloat16: "BF16"}[
        tensor.dtype
    ]
    content = tensor.flatten().view(torch.uint8).numpy().tobytes()
    return dtype, list(tensor.shape), content


def flipped(data: bytes, position: int, bit: int = 0) -> bytes:
    """The file with one bit changed."""
    return data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :]
