"""What a W1A1 convolution owes to its weights alone, for each class of the border.

With a the input's bits and b the weights', 1 where negative, the product of the signs is

    dot = n − 2·popcount(a) − 2·popcount(b) + 4·popcount(a & b),

all taken over the taps inside the image, since padding is the value 0. The table holds
n − 2·popcount(b), which depends on an output pixel through its class alone.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from tribin_kernels.conv2d_shape import Conv2dShape
from tribin_kernels.launch import launch

FLOAT_OFFSET = tl.constexpr(12582912)
"""1.5 · 2²³: the bits of this float plus an integer are those of the sum, for |integer| < 2²²."""

TERMS_LIMIT = 2**20
"""Below this n, everything that is added to `FLOAT_OFFSET` stays exact."""

STEPS_AT_ONCE = 32
"""Slices of 256 channels whose loads are under way together."""


def border_table(fragments: Tensor, shape: Conv2dShape) -> Tensor:
    """Make the table that `bit_mma.conv2d_w1a1` adds to its counts.

    Args:
        fragments: weights as `formats.to_fragments` packs them.
        shape: of the convolution.

    Returns:
        float32 [classes down · classes across, outputs as filled up in fragments]: the channels of
        the taps inside the image less twice the weights' popcount over them, less `FLOAT_OFFSET`.
        Classes are those of `Conv2dShape.border`.

    Raises:
        ValueError: n = channels · taps is not below 2²⁰, where float32 arithmetic would round.
    """
    if shape.terms >= TERMS_LIMIT:
        raise ValueError(f"channels * taps is {shape.terms}; 1-bit products take less than 2^20")
    _, slices, tiles = fragments.shape[:3]
    (start_y, end_y), (start_x, end_x) = shape.border(0), shape.border(1)
    classes_y, classes_x = start_y + 1 + end_y, start_x + 1 + end_x
    table = torch.empty(
        classes_y * classes_x, tiles * 16, dtype=torch.float32, device=fragments.device
    )
    out_height, out_width = shape.output_size
    steps = shape.taps * slices
    launch(
        _border_table_kernel,
        (tiles // 2, classes_y, classes_x),
        {
            "fragments": fragments,
            "table": table,
            "channels": shape.channels,
            "height": shape.height,
            "width": shape.width,
            "out_height": out_height,
            "out_width": out_width,
        },
        {
            "STEPS": steps,
            "SLICES": slices,
            "KERNEL_WIDTH": shape.kernel[1],
            "STRIDE_Y": shape.stride[0],
            "STRIDE_X": shape.stride[1],
            "PADDING_Y": shape.padding[0],
            "PADDING_X": shape.padding[1],
            "START_Y": start_y,
            "START_X": start_x,
            "BLOCK": min(triton.next_power_of_2(steps), STEPS_AT_ONCE),
        },
    )
    return table


@triton.jit
def _popcount(word):
    # In this form LLVM recognises it, and emits the one instruction that counts bits.
    word = word.to(tl.uint32, bitcast=True)
    word -= (word >> 1) & 0x55555555
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F
    return ((word * 0x01010101) >> 24).to(tl.int32)


@triton.jit
def _representative(number, classes, size, START: tl.constexpr):
    """An output of a class: the classes are those of single outputs, but for one in the middle."""
    return tl.where(number <= START, number, size - classes + number)


@triton.jit(do_not_specialize=["channels", "height", "width", "out_height", "out_width"])
def _border_table_kernel(
    fragments, table, channels, height, width, out_height, out_width,
    STEPS: tl.constexpr, SLICES: tl.constexpr, KERNEL_WIDTH: tl.constexpr,
    STRIDE_Y: tl.constexpr, STRIDE_X: tl.constexpr,
    PADDING_Y: tl.constexpr, PADDING_X: tl.constexpr,
    START_Y: tl.constexpr, START_X: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program makes the entries of 32 outputs for one class."""
    group, class_y, class_x = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    groups, classes_y, classes_x = tl.num_programs(0), tl.num_programs(1), tl.num_programs(2)
    first_y = _representative(class_y, classes_y, out_height, START_Y) * STRIDE_Y - PADDING_Y
    first_x = _representative(class_x, classes_x, out_width, START_X) * STRIDE_X - PADDING_X
    counts = tl.zeros((256,), tl.int32)
    steps_inside = 0
    for first in range(0, STEPS, BLOCK):
        step = first + tl.arange(0, BLOCK)
        tap = step // SLICES
        y, x = first_y + tap // KERNEL_WIDTH, first_x + tap % KERNEL_WIDTH
        inside = (step < STEPS) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        offsets = step.to(tl.int64)[:, None] * (groups * 256) + group * 256 + tl.arange(0, 256)
        words = tl.load(fragments + offsets, mask=inside[:, None], other=0)
        counts += tl.sum(_popcount(words), 0)
        steps_inside += tl.sum(inside.to(tl.int32), 0)
    # A group's words are ordered as h, tn, e, t, nh, kh; output 8·tn + 4·h + 2·nh + e needs all of
    # its t and kh (`formats.to_fragments`).
    counts = tl.sum(tl.sum(tl.reshape(counts, (16, 4, 2, 2)), 3), 1)
    counts = tl.reshape(tl.permute(tl.reshape(counts, (2, 4, 2, 2)), (1, 0, 3, 2)), (32,))
    entry = steps_inside // SLICES * channels - 2 * counts - FLOAT_OFFSET
    first_entry = ((class_y * classes_x + class_x) * groups + group) * 32
    tl.store(table + first_entry + tl.arange(0, 32), entry.to(tl.float32))
