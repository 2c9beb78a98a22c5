"""Signs of latent weights to bits, in the order of each kernel that multiplies with them.

A program packs some words of some rows for all taps: it reads whole stretches of the latent weight
whichever dimension of it is contiguous, the kernel positions as PyTorch has it, or the channels.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from typing import Literal, get_args

import torch
import triton
import triton.language as tl
from torch import Tensor

from tribin_kernels.dtypes import KERNEL_DTYPES
from tribin_kernels.formats import MMA_DEPTH, OUTPUT_MULTIPLE, QUAD_DEPTH
from tribin_kernels.launch import launch
from tribin_kernels.reference.packing import WORD_BITS

Layout = Literal["rows", "fragments", "quads"]
"""Row bits, `formats.to_fragments` or `formats.to_quads`."""

_DEPTH = {"rows": WORD_BITS, "fragments": MMA_DEPTH, "quads": QUAD_DEPTH}
_TILE_WORDS = 8
_TILE_POSITIONS = 32


def pack_weights(
    latent_weight: Tensor, layout: Layout, *, transposed: bool = False, gate: bool = False
) -> Tensor:
    """Pack the signs of a latent weight.

    Args:
        latent_weight: [outputs, C, kh, kw], float32, bfloat16 or float16; copied first only if no
            one stride describes kh and kw together.
        layout: what to pack them into.
        transposed: pack latent_weight.transpose(0, 1), for the gradient of the input; the taps
            keep their order.
        gate: for fragments: the outputs are two halves, and each is filled up to a multiple of 32,
            so that output r of the second is packed as row r + half, half being the filled one.

    Returns:
        int32; with taps = kh·kw, rows: [outputs, taps, ceil(C/32)], fragments: [taps, ceil(C/256),
        rows/16, 32, 4] with the rows filled up to a multiple of 256, quads: [outputs, taps,
        ceil(C/128), 4].

    Raises:
        TypeError: if latent_weight has another dtype.
        ValueError: if latent_weight has another number of dimensions, layout is unknown, or gate
            is set for another layout or an odd number of rows.
    """
    _check(latent_weight, layout)
    latent = latent_weight.flatten(2)
    if transposed:
        latent = latent.transpose(0, 1)
    rows, channels, taps = latent.shape
    if gate and (layout != "fragments" or rows % 2):
        raise ValueError(
            f"pack_weights: gate is set for {rows} rows of {layout}, wanted an even number of "
            "fragments' rows"
        )
    half = rows // 2 if gate else None
    filled_half = triton.cdiv(rows // 2, 32) * 32
    packed_rows = 2 * filled_half if gate else rows
    if layout == "fragments":
        packed_rows = triton.cdiv(packed_rows, OUTPUT_MULTIPLE) * OUTPUT_MULTIPLE
    words = triton.cdiv(channels, _DEPTH[layout]) * _DEPTH[layout] // WORD_BITS
    packed = latent.new_empty(_shape(layout, packed_rows, taps, words), dtype=torch.int32)
    tile_taps = min(triton.next_power_of_2(taps), 32)
    tile_rows = max(_TILE_POSITIONS // tile_taps, 1)
    row_stride, channel_stride, tap_stride = latent.stride()
    launch(
        _pack_weights,
        (
            triton.cdiv(packed_rows, tile_rows),
            triton.cdiv(words, _TILE_WORDS),
            triton.cdiv(taps, tile_taps),
        ),
        {
            "latent": latent,
            "packed": packed,
            "half": half,
            "filled_half": filled_half,
            "rows": rows,
            "packed_rows": packed_rows,
            "channels": channels,
            "taps": taps,
            "words": words,
            "row_stride": row_stride,
            "channel_stride": channel_stride,
            "tap_stride": tap_stride if taps > 1 else 0,
        },
        {"LAYOUT": layout, "ROWS": tile_rows, "WORDS": _TILE_WORDS, "TAPS": tile_taps},
        num_warps=8,
    )
    return packed


def _check(latent_weight: Tensor, layout: str) -> None:
    if latent_weight.dtype not in KERNEL_DTYPES:
        raise TypeError(
            f"pack_weights: latent_weight has the dtype {latent_weight.dtype}, wanted float32, "
            "bfloat16 or float16"
        )
    if latent_weight.ndim != 4:
        raise ValueError(
            f"pack_weights: latent_weight has the shape {list(latent_weight.shape)}, wanted "
            "[outputs, C, kh, kw]"
        )
    if layout not in get_args(Layout):
        raise ValueError(
            f"pack_weights: layout is {layout!r}, wanted one of {', '.join(get_args(Layout))}"
        )


def _shape(layout: Layout, rows: int, taps: int, words: int) -> tuple[int, ...]:
    if layout == "fragments":
        return taps, words // 8, rows // 16, 32, 4
    return (rows, taps, words) if layout == "rows" else (rows, taps, words // 4, 4)


@triton.jit
def _pack_weights(
    latent,
    packed,
    half,
    filled_half,
    rows,
    packed_rows,
    channels,
    taps,
    words,
    row_stride,
    channel_stride,
    tap_stride,
    LAYOUT: tl.constexpr,
    ROWS: tl.constexpr,
    WORDS: tl.constexpr,
    TAPS: tl.constexpr,
):
    """ROWS × WORDS × 32 bits × TAPS."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None, None]
    word = tl.program_id(1) * WORDS + tl.arange(0, WORDS)[:, None]
    tap = tl.program_id(2) * TAPS + tl.arange(0, TAPS)
    bit = tl.arange(0, 32)[:, None]

    source_row = row
    in_latent = row < rows
    if half is not None:
        in_second = row >= filled_half
        row_of_half = row - tl.where(in_second, filled_half, 0)
        source_row = row_of_half + tl.where(in_second, half, 0)
        in_latent = (row_of_half < half) & (source_row < rows)
    channel = _channel(word[:, :, None], bit, LAYOUT)
    offset = source_row[:, :, :, None].to(tl.int64) * row_stride
    offset += channel.to(tl.int64) * channel_stride + tap * tap_stride
    inside = in_latent[:, :, :, None] & (channel < channels) & (tap < taps)
    values = tl.load(latent + offset, inside, other=0.0).to(tl.float32)
    bits = tl.sum(tl.where(values < 0, 1 << bit, 0), axis=2)

    target = _target(row, word, tap, packed_rows, taps, words, LAYOUT)
    tl.store(packed + target, bits, (row < packed_rows) & (word < words) & (tap < taps))


@triton.jit
def _channel(word, bit, LAYOUT: tl.constexpr):
    """The channel that a bit of a packed word holds, see `formats`."""
    if LAYOUT == "rows":
        channel = 32 * word + bit
    elif LAYOUT == "fragments":
        channel = word // 4 * 128 + bit // 8 * 32 + word % 4 * 8 + bit % 8
    else:
        channel = word // 4 * 128 + (15 - bit % 16) * 8 + word % 4 * 2 + bit // 16
    return channel


@triton.jit
def _target(row, word, tap, packed_rows, taps, words, LAYOUT: tl.constexpr):
    """Where a packed word is stored, see `formats`."""
    if LAYOUT == "fragments":
        column, h, nh, e = row // 8 % 4, row // 4 % 2, row // 2 % 2, row % 2
        lane = column * 8 + e * 4 + word % 4
        register = nh * 2 + word // 4 % 2
        tile = row // 32 * 2 + h
        plane = tap * (words // 8) + word // 8
        target = (plane * (packed_rows // 16) + tile).to(tl.int64) * 128 + lane * 4 + register
    else:
        target = (row.to(tl.int64) * taps + tap) * words + word
    return target
