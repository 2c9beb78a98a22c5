"""W1A1 by the int8 tensor core, as implicit GEMM over row bits; plain Triton, for every GPU.

A bit becomes a byte: +64, or −64 by the sign bit. A shift and one three-input logical operation
make four of them; products are ±2¹², so sums are exact in int32. Only a byte of 0 adds nothing,
which is what a tap outside the image is made of.

The product takes K in any order that both operands share. A word gives 8 planes of 4 bytes, each
of one bit of every byte, and K is ordered by plane, word and byte: neighbours along K then
come from one word, and each thread expands its own words into its own registers.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from tribin_kernels.conv2d_shape import Conv2dShape
from tribin_kernels.epilogue import Epilogue
from tribin_kernels.finish_sums import Results, finish
from tribin_kernels.formats import check_format
from tribin_kernels.launch import launch
from tribin_kernels.reference.packing import WORD_BITS, words_per_row

PLUS = 0x40404040
"""Four bytes of +64."""

WORD = tl.constexpr(WORD_BITS)

SIGNS = tl.constexpr(-0x7F7F7F80)
"""The sign bits of four bytes, 0x80808080."""

PRODUCT_BITS = tl.constexpr(12)
"""A product is ±2¹²."""

MOST_TERMS = 2**19 - 1
"""Products whose sum fits in int32."""

MOST_PIXELS = 2**30
"""Pixels are numbered in int32."""


@dataclass(frozen=True)
class Int8MmaConfig:
    """How the product is cut.

    Args:
        block_pixels, block_outputs: of a program's tile, powers of two, the outputs at least 32,
            or 64 with `Epilogue.gate`, which halves the results of a tile.
        block_words: words of 32 channels in a step over K, a power of two; a power of two that
            holds all words of a pixel where that is less. With 8 or more, nothing but words
            passes through shared memory on the way to `mma.sync`.
        num_warps, num_stages: as Triton has them.
    """

    block_pixels: int = 128
    block_outputs: int = 128
    block_words: int = 8
    num_warps: int = 8
    num_stages: int = 3


def conv2d_w1a1(
    signs: Tensor,
    weights: Tensor,
    gain: Tensor | None,
    gain_factor: float,
    bias: Tensor | None,
    shape: Conv2dShape,
    *,
    epilogue: Epilogue = Epilogue(),  # noqa: B008
    dtype: torch.dtype,
    config: Int8MmaConfig = Int8MmaConfig(),
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """y = epilogue(conv2d(x, W)·gain·gain_factor + bias), for x and W of ±1.

    Args:
        signs: row bits of x, int32 [batch, height, width, ceil(channels/32)].
        weights: row bits of W, int32 [outputs, taps, ceil(channels/32)].
        gain, bias: [outputs], floating point; 1 and 0 where None.
        shape: of the convolution; padding is the value 0.
        epilogue: what follows, and which results to write; its residual is channels-last.
        dtype: of y: float32, bfloat16 or float16.
        config: how the product is cut.

    Returns:
        y, channels-last, and the row bits of its signs and of |y| ≤ 1, int32
        [batch, H', W', ceil(channels of y/32)]; None where the epilogue does not ask for them.

    Raises:
        TypeError: signs or weights are not int32.
        ValueError: signs or weights are of another shape, or a size passes a limit.
    """
    words = words_per_row(shape.channels)
    block_words = min(config.block_words, triton.next_power_of_2(words))
    _check(shape, block_words)
    check_format("signs", signs, (shape.batch, shape.height, shape.width, words))
    check_format("weights", weights, (shape.outputs, shape.taps, words))
    outputs = shape.outputs // 2 if epilogue.gate else shape.outputs
    results = Results.allocate(
        (shape.batch, outputs, *shape.output_size), gain, gain_factor, bias, None, epilogue, dtype,
        signs.device,
    )  # fmt: skip
    launch(
        _multiply,
        (
            triton.cdiv(shape.pixels, config.block_pixels),
            triton.cdiv(shape.outputs, config.block_outputs),
        ),
        {
            "signs_in": signs,
            "weights": weights,
            # loaded, not a constant: see _multiply
            "plus": torch.full((1,), PLUS, dtype=torch.int32, device=signs.device),
            "pixel_count": shape.pixels,
            **results.arguments,
        },
        {
            "CHANNELS": shape.channels,
            "WORDS": words,
            "SOURCE": (shape.height, shape.width),
            "RESULT": shape.output_size,
            "KERNEL": shape.kernel,
            "STRIDE": shape.stride,
            "PADDING": shape.padding,
            "BLOCK_PIXELS": config.block_pixels,
            "BLOCK_OUTPUTS": config.block_outputs,
            "BLOCK_WORDS": block_words,
            **results.constants,
        },
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    return results.tensors


def _check(shape: Conv2dShape, block_words: int) -> None:
    step = WORD_BITS * block_words
    terms = shape.taps * triton.cdiv(shape.channels, step) * step
    for name, size, most in (("terms", terms, MOST_TERMS), ("pixels", shape.pixels, MOST_PIXELS)):
        if size > most:
            raise ValueError(f"shape: {size} {name} are more than {most}")


@triton.jit
def _multiply(
    signs_in, weights, plus, pixel_count, gain, gain_factor, bias, slope, passes, residual, y,
    signs, mask,
    CHANNELS: tl.constexpr, WORDS: tl.constexpr, SOURCE: tl.constexpr, RESULT: tl.constexpr,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr, BLOCK_WORDS: tl.constexpr,
    RESULTS: tl.constexpr, DTYPE: tl.constexpr, GATE: tl.constexpr, ELU: tl.constexpr,
):  # fmt: skip
    """A tile of pixels × outputs.

    The bytes +64 are loaded: Triton expands an operand in the registers that the tensor core reads
    only where nothing but loads and constants goes in, and LLVM would cut a constant into bytes.
    """
    STEPS: tl.constexpr = (WORDS + BLOCK_WORDS - 1) // BLOCK_WORDS
    TAPS: tl.constexpr = KERNEL[0] * KERNEL[1]
    # bits beyond the last channel are +1 in both operands
    FILL: tl.constexpr = STEPS * BLOCK_WORDS * WORD - CHANNELS
    pixels = tl.program_id(0) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    column = tl.program_id(1) * BLOCK_OUTPUTS
    top = pixels // RESULT[1] % RESULT[0] * STRIDE[0] - PADDING[0]
    left = pixels % RESULT[1] * STRIDE[1] - PADDING[1]
    image = (pixels // (RESULT[0] * RESULT[1])).to(tl.int64)
    corner = signs_in + ((image * SOURCE[0] + top) * SOURCE[1] + left) * WORDS
    outputs = output_columns(column, BLOCK_OUTPUTS, RESULTS, GATE).to(tl.int64)
    row = weights + outputs * (TAPS * WORDS)
    word = tl.arange(0, BLOCK_WORDS)
    everywhere = tl.load(plus + tl.zeros((1, 1), tl.int32))
    sums = tl.zeros((BLOCK_PIXELS, BLOCK_OUTPUTS), tl.int32)
    for step in range(TAPS * STEPS):
        tap, first = step // STEPS, step % STEPS * BLOCK_WORDS
        ky, kx = tap // KERNEL[1], tap % KERNEL[1]
        inside = (pixels < pixel_count)[:, None]
        here = everywhere
        if PADDING[0] + PADDING[1] > 0:
            inside &= _is_inside(top + ky, left + kx, SOURCE)[:, None]
            here = tl.load(plus + tl.zeros((BLOCK_PIXELS, 1), tl.int32), inside, 0)
        exists = (first + word < WORDS)[None, :]
        x_words = (ky * SOURCE[1] + kx) * WORDS + first + word
        x = tl.load(corner[:, None] + x_words[None, :], inside & exists, 0)
        w = tl.load(row[:, None] + (tap * WORDS + first + word)[None, :], exists, 0)
        operand = tl.trans(_expand(w, everywhere))
        sums = tl.dot(_expand(x, here), operand, sums, out_dtype=tl.int32)
    fill = _taps_inside(top, KERNEL[0], SOURCE[0]) * _taps_inside(left, KERNEL[1], SOURCE[1]) * FILL
    dots = ((sums >> PRODUCT_BITS) - fill[:, None]).to(tl.float32)
    gates = dots
    if GATE:
        column = column // 2
        dots, gates = tl.split(tl.reshape(dots, (BLOCK_PIXELS, BLOCK_OUTPUTS // 2, 2)))
    finish(
        dots, gates, column, pixels, pixel_count,
        gain, gain_factor, bias, slope, passes, residual, y, signs, mask, RESULTS, DTYPE, GATE, ELU,
    )  # fmt: skip


@triton.jit
def output_columns(column, COUNT: tl.constexpr, RESULTS: tl.constexpr, GATE: tl.constexpr):
    """The outputs in a tile's columns; with a gate, that of a result is followed by its gate's."""
    columns = column + tl.arange(0, COUNT)
    if GATE:
        return tl.minimum(columns // 2, RESULTS - 1) + columns % 2 * RESULTS
    return tl.minimum(columns, RESULTS - 1)


@triton.jit
def _is_inside(y, x, SIZE: tl.constexpr):
    return (y >= 0) & (y < SIZE[0]) & (x >= 0) & (x < SIZE[1])


@triton.jit
def _taps_inside(start, KERNEL: tl.constexpr, SIZE: tl.constexpr):
    """How many of KERNEL positions from `start` on are at least 0 and less than SIZE."""
    return tl.maximum(tl.minimum(SIZE - start, KERNEL) - tl.maximum(-start, 0), 0)


@triton.jit
def _expand(words, plus):
    """int32 [rows, words] to int8 [rows, 32 · words] of ±64; of 0 where `plus` is 0, as words."""
    planes = tl.permute(_planes(words, plus, 0, 8), (0, 2, 3, 4, 1))
    planes = tl.reshape(planes, (words.shape[0], 8 * words.shape[1]))
    halves = tl.join(planes.to(tl.int16), (planes >> 16).to(tl.int16))
    quarters = tl.join(halves.to(tl.int8), (halves >> 8).to(tl.int8))
    return tl.reshape(quarters, (words.shape[0], 32 * words.shape[1]))


@triton.jit
def _planes(words, plus, SHIFT: tl.constexpr, COUNT: tl.constexpr):
    """[rows, words, 2, 2, 2]: the bits to the sign bits of bytes, by shifts from SHIFT on."""
    if COUNT == 1:
        return ((words << SHIFT) & SIGNS) | plus
    else:
        lower = _planes(words, plus, SHIFT, COUNT // 2)
        return tl.join(lower, _planes(words, plus, SHIFT + COUNT // 2, COUNT // 2))
