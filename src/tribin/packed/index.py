"""What a packed file says about itself, held to the letter: strict JSON, and where its tensors are.

Index is what safetensors calls header: a JSON object of tensors' names, dtypes, shapes and offsets.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

DTYPES = {
    "I32": torch.int32,
    "I64": torch.int64,  # torch's batch norm counts in it
    "F32": torch.float32,
    "BF16": torch.bfloat16,
}

# More than any model needs, and little enough that a hostile file costs neither time nor memory.
MAX_NESTING = 32
MAX_NAME_LENGTH = 512
MAX_DIMENSIONS = 16
MAX_ELEMENTS = 2**48  # zeros in a shape count as ones: strides are products of the sizes, too


@dataclass(frozen=True)
class Entry:
    """Where in the payload a tensor is.

    Attributes:
        name, dtype, shape: the tensor's.
        begin, end: its bytes, counted from the payload's start.
    """

    name: str
    dtype: torch.dtype
    shape: list[int]
    begin: int
    end: int

    def tensor(self, payload: Tensor) -> Tensor:
        """The tensor, as a view of the payload, uint8 [bytes]."""
        return payload[self.begin : self.end].view(self.dtype).view(self.shape)


def parse_object(text: bytes | bytearray, subject: str) -> dict[str, Any]:
    """Parse a JSON object without repeated keys, numbers beyond float64 or deep nesting.

    Args:
        text: the JSON, in UTF-8.
        subject: what it is, for the error.

    Raises:
        ValueError: if it is anything else.
    """
    try:
        value = json.loads(
            text.decode(),  # of bytes, json would guess the encoding
            object_pairs_hook=_distinct,
            parse_float=_finite,
            parse_constant=_finite,
        )
        json.dumps(value, ensure_ascii=False).encode()  # fails on half a surrogate pair
        nesting = _nesting(value)
    except (ValueError, RecursionError) as fault:
        raise ValueError(f"{subject} is damaged: {fault}") from fault
    if nesting > MAX_NESTING:
        raise ValueError(f"{subject} is nested {nesting} deep, and may be {MAX_NESTING}")
    if not isinstance(value, dict):
        raise ValueError(f"{subject} is not a JSON object")
    return value


def parse_entries(fields_by_name: Mapping[str, Any], payload_bytes: int) -> list[Entry]:
    """The entries of an index, which fill a payload of so many bytes without gap or overlap.

    Raises:
        ValueError: if an entry is not valid, or they fill another payload.
    """
    entries = [_entry(name, fields) for name, fields in fields_by_name.items()]
    position = 0
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != position:
            raise ValueError(
                f"tensor {entry.name!r} begins at byte {entry.begin} of the payload, "
                f"and the tensors before it end at byte {position}"
            )
        if entry.begin % entry.dtype.itemsize:
            raise ValueError(f"tensor {entry.name!r} begins at byte {entry.begin}, not aligned")
        position = entry.end
    if position != payload_bytes:
        fault = "the file is cut off" if position > payload_bytes else "bytes follow the tensors"
        raise ValueError(f"{fault}: its tensors have {position} bytes, it has {payload_bytes}")
    return entries


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    items: dict[str, Any] = {}
    for key, value in pairs:
        if key in items:
            raise ValueError(f"the key {key!r} is there twice")
        items[key] = value
    return items


def _finite(literal: str) -> float:
    value = float(literal)
    if not math.isfinite(value):
        raise ValueError(f"{literal} is not a finite number")
    return value


def _nesting(value: Any) -> int:
    inner: Iterable[Any]
    match value:
        case dict():
            inner = value.values()
        case list():
            inner = value
        case _:
            return 0
    return 1 + max(map(_nesting, inner), default=0)


def _entry(name: str, fields: Any) -> Entry:
    _check_name(name)
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name!r} should have dtype, shape and data_offsets, no more")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"tensor {name!r} is of dtype {dtype!r}, not of {', '.join(DTYPES)}")
    _check_shape(name, shape)
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"tensor {name!r} has data_offsets {offsets!r}, not two byte counts")
    entry = Entry(name, DTYPES[dtype], shape, *offsets)
    expected = math.prod(shape) * entry.dtype.itemsize
    if entry.end - entry.begin != expected:
        raise ValueError(
            f"tensor {name!r} has {expected} bytes by its shape {shape} and dtype {dtype}, "
            f"but data_offsets {offsets}"
        )
    return entry


def _check_name(name: str) -> None:
    if not 1 <= len(name) <= MAX_NAME_LENGTH:
        raise ValueError(
            f"a tensor's name has {len(name)} characters; 1 to {MAX_NAME_LENGTH} are allowed"
        )
    if any(character < " " or "\x7f" <= character <= "\x9f" for character in name):
        raise ValueError(f"the name of tensor {name!r} holds a control character")


def _check_shape(name: str, shape: Any) -> None:
    if (
        not _are_sizes(shape)
        or len(shape) > MAX_DIMENSIONS
        or math.prod(max(size, 1) for size in shape) > MAX_ELEMENTS
    ):
        raise ValueError(f"tensor {name!r} has shape {shape!r}, which no tensor can have")


def _are_sizes(value: Any) -> bool:
    # By type, since True is an instance of int.
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
