"""What the kernels take in place of a packed layer's row bits, each made once.

The weights of a packed layer stay as they are, so what is made of them is kept: it is of their
size, and there is as much of it as the model has weights.
"""

from collections.abc import Callable, Hashable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from tribin_kernels.border_table import border_table
from tribin_kernels.conv2d_shape import Conv2dShape
from tribin_kernels.formats import to_fragments, to_quads


def quads_of(weight_bits: Tensor) -> Tensor:
    """Weights, int32 [outputs, kh, kw, ceil(C/32)], for `real_mma`; see `formats.to_quads`."""
    return _once(weight_bits, "quads", lambda: to_quads(weight_bits.flatten(1, 2)))


def fragments_of(
    weight_bits: Tensor, shape: Conv2dShape, *, gate: bool = False
) -> tuple[Tensor, Tensor]:
    """Weights for `bit_mma` and their border table; with a gate, each half is filled up by itself.

    See `formats.to_fragments` and `border_table`.
    """
    fragments = _once(weight_bits, ("fragments", gate), lambda: _fragments(weight_bits, gate))
    shape = _smallest_of_border(shape)
    table = _once(weight_bits, ("table", gate, shape), lambda: border_table(fragments, shape))
    return fragments, table


def _fragments(weight_bits: Tensor, gate: bool) -> Tensor:
    rows = weight_bits.flatten(1, 2)
    halves = rows.chunk(2) if gate else [rows]
    filled = [F.pad(half, (0, 0, 0, 0, 0, -half.shape[0] % 32)) for half in halves]
    return to_fragments(torch.cat(filled))


def _smallest_of_border(shape: Conv2dShape) -> Conv2dShape:
    """The smallest image with the same table: so a layer has few tables, whatever it is run on."""
    inner = [shape.output_size[axis] - 1 - sum(shape.border(axis)) for axis in (0, 1)]
    height = shape.height - inner[0] * shape.stride[0]
    width = shape.width - inner[1] * shape.stride[1]
    return replace(shape, batch=1, height=height, width=width)


_kept: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""By the storage of the weights, since a layer may pass a new view of them at each call."""


def _once(weight_bits: Tensor, name: Hashable, make: Callable[[], Tensor]) -> Tensor:
    """`make()`, kept as `name` while the weights' memory lives, and made again after a write to it.

    A write is seen by the version of weight_bits. An inference tensor has none, and is taken to be
    left alone. Nothing is kept of the capture of a CUDA graph, which computes nothing before it is
    replayed: run a layer once before its capture, so that the graph reads what is kept, and capture
    it again after a write.
    """
    version = None if weight_bits.is_inference() else weight_bits._version
    kept = _kept.setdefault(weight_bits.untyped_storage(), {})
    key = weight_bits.storage_offset(), weight_bits.shape, weight_bits.stride(), name
    if key in kept and kept[key][0] == version:
        return kept[key][1]
    made = make()
    if not (weight_bits.is_cuda and torch.cuda.is_current_stream_capturing()):
        kept[key] = version, made
    return made
