"""The file of a packed model: safetensors that holds its own checksum.

docs/packed_format.md gives it byte for byte: a length, the index, in it the header, the payload.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedIOBase, BytesIO
from mmap import mmap
from os import fstat
from pathlib import Path
from typing import Any

import torch
from safetensors import TensorSpec, serialize
from torch import Tensor

from tribin.atomic_file import write_atomically
from tribin.errors import InputError
from tribin.packed.index import DTYPES, parse_entries, parse_object
from tribin.packed.stacking import stack, unstack

FORMAT_VERSION = 1
LENGTH_BYTES = 8
MAX_INDEX_BYTES = 2 * 2**20

OPENING = rb'{"__metadata__":{"tribin":"{\"sha256\":\"'
"""How the index begins; it puts the checksum at the same place in every file."""
OPENING_BYTES = slice(LENGTH_BYTES, LENGTH_BYTES + len(OPENING))
CHECKSUM_BYTES = slice(OPENING_BYTES.stop, OPENING_BYTES.stop + 64)
BLANK_CHECKSUM = "0" * 64
"""What stands in the checksum's place while it is computed."""

PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How the files of torch.save and pickle begin."""


class PackedFormatError(InputError):
    """A file is no packed model that this tribin can read, or tensors can't be put into one."""


@dataclass(frozen=True)
class PackedFile:
    """What a packed model's file holds.

    Attributes:
        header: what was written, with the file's `format_version` and `sha256`.
        tensors: int32, int64, float32 or bfloat16, contiguous, on the CPU; they share one storage.
    """

    header: dict[str, Any]
    tensors: dict[str, Tensor]


def write_packed(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write a file in one step; the same tensors and header give the same bytes.

    Args:
        path: replaced if it exists.
        tensors: int32, int64, float32 or bfloat16, finite, on any device; no name holds a ``*``.
        header: a JSON object; `format_version` and `sha256` are set here.

    Raises:
        PackedFormatError: if `read_packed` would refuse the file; nothing is written then.
        OSError: if the folder is missing or not writable, or the disk is full.
    """
    try:
        data = _serialized(tensors, header)
        _read(BytesIO(data), len(data))  # one set of rules: what can't be read is not written
    except ValueError as fault:
        raise _error(path, fault) from fault
    write_atomically(path, data)


def read_packed(path: Path) -> PackedFile:
    """Read a file; all its bytes are checked before the first tensor is made.

    Raises:
        PackedFormatError: if it is missing, damaged or hostile, or no packed model at all.
    """
    try:
        _check_is_file(path)
        with path.open("rb") as file:
            return _read(file, fstat(file.fileno()).st_size)
    except (OSError, ValueError) as fault:
        raise _error(path, fault) from fault


def _error(path: Path, fault: Exception) -> PackedFormatError:
    return PackedFormatError(f"{path}: {fault!s:.400}")  # a hostile file's names may be long


def _serialized(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> bytes:
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES.values():
            raise ValueError(
                f"tensor {name!r} is {tensor.dtype}, not int32, int64, float32 or bfloat16"
            )
    stacked = stack({name: tensor.detach().cpu() for name, tensor in tensors.items()})
    contiguous = {name: tensor.contiguous() for name, tensor in stacked.items()}
    specs = {name: _spec(tensor) for name, tensor in contiguous.items()}
    data: bytes = serialize(specs, metadata={"tribin": _header_text(header)})
    checksum = _checksum(data).encode()
    return data[: CHECKSUM_BYTES.start] + checksum + data[CHECKSUM_BYTES.stop :]


def _spec(tensor: Tensor) -> TensorSpec:
    """What safetensors.torch.save makes of a tensor, but without NumPy."""
    return TensorSpec(
        dtype=str(tensor.dtype).removeprefix("torch."),
        shape=list(tensor.shape),
        data_ptr=tensor.data_ptr(),
        data_len=tensor.nbytes,
    )


def _header_text(header: Mapping[str, Any]) -> str:
    content = {key: value for key, value in header.items() if key != "sha256"}
    content["format_version"] = FORMAT_VERSION
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f'{{"sha256":"{BLANK_CHECKSUM}",{text.removeprefix("{")}'


def _checksum(data: bytes | mmap) -> str:
    digest = hashlib.sha256(data[: CHECKSUM_BYTES.start] + BLANK_CHECKSUM.encode())
    digest.update(memoryview(data)[CHECKSUM_BYTES.stop :])
    return digest.hexdigest()


def _check_is_file(path: Path) -> None:
    if path.is_dir():
        raise ValueError("this is a folder, not the file of a packed model")
    if not path.exists():
        raise ValueError("there is no such file")
    if not path.is_file():
        raise ValueError("this is not a regular file")


def _read(file: BufferedIOBase, size: int) -> PackedFile:
    start = file.read(min(size, LENGTH_BYTES + MAX_INDEX_BYTES))
    _check_opening(start)
    payload_start = LENGTH_BYTES + _index_length(start, size)
    index = parse_object(start[LENGTH_BYTES:payload_start], "its index")
    header = _header(index.pop("__metadata__"))
    entries = parse_entries(index, size - payload_start)
    # Not from malloc's heap, which keeps what it was once given.
    data = mmap(-1, size)
    file.seek(0)
    file.readinto(data)
    if not header["sha256"].encode() == data[CHECKSUM_BYTES] == _checksum(data).encode():
        raise ValueError("the file is damaged: its bytes don't have the checksum it states")
    payload = torch.frombuffer(data, dtype=torch.uint8)[payload_start:]
    tensors = unstack({entry.name: entry.tensor(payload) for entry in entries})
    _check_finite(tensors)
    return PackedFile(header, tensors)


def _check_opening(data: bytes) -> None:
    opening = data[OPENING_BYTES]
    if opening == OPENING:
        return
    if not data:
        raise ValueError("the file is empty")
    if opening and OPENING.startswith(opening):
        raise ValueError(f"the file is cut off after {len(data)} bytes")
    if opening.startswith(b"{"):
        raise ValueError("this looks like a safetensors file, but not like one of a packed model")
    if data.startswith(PICKLES):
        raise ValueError("this looks like a pickle or a file of torch.save, not a packed model")
    raise ValueError("this is not a safetensors file, and so no packed model")


def _index_length(data: bytes, size: int) -> int:
    length = int.from_bytes(data[:LENGTH_BYTES], "little")
    if length > size - LENGTH_BYTES:
        raise ValueError(
            f"the file is cut off, or its first bytes are damaged: it has {size} bytes, "
            f"its index alone should have {length}"
        )
    if length > MAX_INDEX_BYTES:
        raise ValueError(f"its index has {length} bytes; {MAX_INDEX_BYTES} are allowed")
    if length % 8:
        raise ValueError(f"its index has {length} bytes, which is not a multiple of 8")
    return length


def _header(metadata: dict[str, Any]) -> dict[str, Any]:
    if metadata.keys() != {"tribin"}:
        raise ValueError("its metadata holds more than tribin's header")
    header = parse_object(metadata["tribin"].encode(), "its header")
    version = header.get("format_version")
    if type(version) is not int or version < 1:  # True is an instance of int
        raise ValueError(f"its format_version is {version!r}; this tribin reads {FORMAT_VERSION}")
    if version > FORMAT_VERSION:
        raise ValueError(
            f"a newer tribin wrote it: its format_version is {version}, "
            f"and this tribin reads {FORMAT_VERSION}"
        )
    return header


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"tensor {name!r} is not finite everywhere")
