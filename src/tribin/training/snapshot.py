"""Tensors as they are at one moment, in memory, laid out as the safetensors file they become."""

import json
from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from tribin.errors import NonFiniteError

DTYPES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16",
    torch.int32: "I32", torch.int64: "I64", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float32: "F32", torch.float64: "F64",
}  # fmt: skip
"""What safetensors calls them."""


class Snapshot:
    """A copy of tensors in one block of memory, pinned where they come from a GPU.

    Copies from a GPU are only begun here: `take_snapshots` waits for them.

    Args:
        tensors: of `DTYPES`; any device, shape and memory layout.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        # Widest first: so each begins at a multiple of its element's size.
        ordered = dict(sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])))
        spans = list(pairwise(accumulate((x.nbytes for x in ordered.values()), initial=0)))
        pinned = any(tensor.is_cuda for tensor in ordered.values())
        self._block = torch.empty(
            sum(b - a for a, b in spans), dtype=torch.uint8, pin_memory=pinned
        )
        self._header = _header(ordered, spans)
        self._copies = {}
        for (name, tensor), (start, end) in zip(ordered.items(), spans, strict=True):
            copy = self._block[start:end].view(tensor.dtype).view(tensor.shape)
            self._copies[name] = copy.copy_(tensor.detach(), non_blocking=True)

    @property
    def file_content(self) -> list[bytes | memoryview]:
        """The bytes of the safetensors file, in parts."""
        return [self._header, self._block.numpy().data]

    def non_finite(self) -> str | None:
        """The name of a tensor that is not finite; None where all are."""
        for name, copy in self._copies.items():
            if copy.is_floating_point() and not copy.isfinite().all():
                return name
        return None


def take_snapshots(tensors: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Snapshot]:
    """Copy named groups of tensors; when this returns they may change."""
    snapshots = {name: Snapshot(group) for name, group in tensors.items()}
    for device in {tensor.device for group in tensors.values() for tensor in group.values()}:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return snapshots


def check_finite(snapshots: Mapping[str, Snapshot]) -> None:
    """Raise a NonFiniteError that names the first tensor that is not finite."""
    for group, snapshot in snapshots.items():
        if (name := snapshot.non_finite()) is not None:
            raise NonFiniteError(f"{name} of the {group} is not finite, so it is not saved")


def _header(tensors: Mapping[str, Tensor], spans: list[tuple[int, int]]) -> bytes:
    """Its length in 8 bytes, and JSON, padded so that the tensors begin at a multiple of 8."""
    entries: dict[str, Any] = {
        name: {"dtype": DTYPES[tensor.dtype], "shape": tensor.shape, "data_offsets": span}
        for (name, tensor), span in zip(tensors.items(), spans, strict=True)
    }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
