"""W1A16: products of real input with 1-bit weights on the tensor core, as implicit GEMM.

The weights are the left operand, outputs × K, and the pixels of the batch are columns of the right
one: sm_90 takes a left operand from registers, where each lane expands its bits (`to_quads`). One
step of the loop over K is 128 channels of one tap. The activations come through shared memory,
loaded some steps ahead, with zeros for pixels outside the image.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tribin_kernels.conv2d_shape import Conv2dShape
from tribin_kernels.epilogue import Epilogue
from tribin_kernels.finish_sums import Results, finish_parts, finish_tile, store_part
from tribin_kernels.formats import QUAD_DEPTH, check_format
from tribin_kernels.launch import launch
from tribin_kernels.reference.packing import words_per_row
from tribin_kernels.target import target_of

DEPTH = tl.constexpr(QUAD_DEPTH)

PLUS_ONES = {torch.bfloat16: 0x3F803F80, torch.float16: 0x3C003C00}
"""Two times +1 in 16 bits each."""

SIGNS = tl.constexpr(-0x7FFF8000)
"""The two signs, 0x80008000."""

LIMIT = 2**31 - 2**16
"""Of what is counted in 32 bits, up to a tile beyond the last one."""


@dataclass(frozen=True)
class RealMmaConfig:
    """How the product is cut.

    Args:
        block_outputs, block_pixels: of a program's tile, powers of two, at least 64 and 16; with
            `Epilogue.gate` half of these outputs gate the other half.
        split: among how many programs K is split, for products of few pixels.
        num_warps, num_stages: as Triton has them.
    """

    block_outputs: int = 128
    block_pixels: int = 128
    split: int = 1
    num_warps: int = 8
    num_stages: int = 3


def conv2d_w1a16(
    x: Tensor,
    quads: Tensor,
    gain: Tensor | None,
    gain_factor: float,
    bias: Tensor | None,
    shape: Conv2dShape,
    *,
    transposed: bool = False,
    mask: Tensor | None = None,
    epilogue: Epilogue = Epilogue(),  # noqa: B008
    dtype: torch.dtype,
    config: RealMmaConfig = RealMmaConfig(),
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """y = epilogue(conv2d(x, W)·gain·gain_factor + bias), or the gradient for its input.

    Args:
        x: [batch, channels, height, width], bfloat16 or float16; or the three bfloat16 terms of a
            float32, [3, batch, channels, height, width]. Channels-last in memory.
        quads: W, int32 [outputs, taps, ceil(channels/128), 4].
        gain, bias: [outputs], floating point.
        shape: of the forward product, also where transposed.
        transposed: x is the gradient of the product, [batch, outputs, H', W'], the quads are those
            of the transposed weights, int32 [channels, taps, ceil(outputs/128), 4], and y is the
            gradient for the input, [batch, channels, height, width].
        mask: row bits of y's shape, int32 [batch, height, width, ceil(channels/32)]; y becomes 0
            where its bit is 0.
        epilogue: what follows, and which results to write.
        dtype: of y.
        config: how the product is cut.

    Returns:
        y, channels-last, and the row bits of its signs and of |y| ≤ 1; each None where the
        epilogue does not ask for it.

    Raises:
        TypeError: quads or mask are not int32.
        ValueError: x is of another dtype; x, quads or mask is of another shape; x or the residual
            is not channels-last; or a size passes what 32 bits can address.
    """
    _check(x, epilogue.residual)
    below, above = (shape.channels, shape.height, shape.width), (shape.outputs, *shape.output_size)
    (channels, *source), (outputs, *result) = (above, below) if transposed else (below, above)
    if x.shape[-4:] != (shape.batch, channels, *source):
        wanted = [shape.batch, channels, *source]
        raise ValueError(f"x has the shape {list(x.shape)}, wanted {wanted}, or three of these")
    check_format("quads", quads, (outputs, shape.taps, triton.cdiv(channels, QUAD_DEPTH), 4))
    if mask is not None:
        check_format("mask", mask, (shape.batch, *result, words_per_row(outputs)))
    results = Results.allocate(
        (shape.batch, outputs // 2 if epilogue.gate else outputs, result[0], result[1]),
        gain, gain_factor, bias, mask, epilogue, dtype, x.device,
    )  # fmt: skip
    sizes = {
        "SOURCE": tuple(source),
        "CHANNELS": channels,
        "RESULT": tuple(result),
        "KERNEL": shape.kernel,
        "STRIDE": shape.stride,
        "PADDING": shape.padding,
        "TRANSPOSED": transposed,
    }
    terms = x.shape[0] if x.dim() == 5 else 1
    if config.split == 1:
        _launch(x, quads, None, results.pixels, terms, results, sizes, config)
    else:
        # terms are summed apart, as pixels of their own: then they share the expanded weights
        parts = x.new_empty((config.split * terms, results.pixels, outputs), dtype=torch.float32)
        _launch(x, quads, parts, results.pixels * terms, 1, results, sizes, config)
        finish_parts(parts, results)
    return results.tensors


def _check(x: Tensor, residual: Tensor | None) -> None:
    if x.dtype not in PLUS_ONES:
        raise ValueError(f"x is {x.dtype}, it must be one of {list(PLUS_ONES)}")
    for name, tensor in (("x", x), ("residual", residual)):
        if tensor is not None and not tensor.movedim(-3, -1).is_contiguous():
            raise ValueError(f"{name} must be channels-last, its strides are {tensor.stride()}")


def _check_limits(pixels: int, quads: Tensor, sizes: dict[str, Any], config: RealMmaConfig) -> None:
    """The kernel has pixels, quads and offsets from a tile's first image in 32 bits."""
    images = 2 + config.block_pixels // math.prod(sizes["RESULT"])
    counts = {
        "pixels": pixels,
        "words in quads": quads.numel(),
        f"elements in {images} images": images * math.prod(sizes["SOURCE"]) * sizes["CHANNELS"],
    }
    for name, count in counts.items():
        if count > LIMIT:
            raise ValueError(f"there are {count} {name}, the limit is {LIMIT}")


def _launch(
    x: Tensor,
    quads: Tensor,
    parts: Tensor | None,
    pixels: int,
    terms: int,
    results: Results,
    sizes: dict[str, Any],
    config: RealMmaConfig,
) -> None:
    _check_limits(pixels, quads, sizes, config)
    gate = results.constants["GATE"] and parts is None
    outputs = results.shape[1] if parts is None else parts.shape[2]
    block_outputs = config.block_outputs // 2 if gate else config.block_outputs
    tiles = triton.cdiv(outputs, block_outputs) * triton.cdiv(pixels, config.block_pixels)
    arguments = {
        "x": x,
        "quads": quads,
        "parts": parts,
        "pixel_count": pixels,
        "term_stride": x.numel() // terms,
        **results.arguments,
    }
    constants = {
        **results.constants,
        **sizes,
        "GATE": gate,
        "OUTPUTS": outputs,
        "TERMS": terms,
        "SPLIT": config.split,
        "PLUS_ONES": PLUS_ONES[x.dtype],
        "INLINE_PTX": target_of(x.device).has_ptx,
        "BLOCK_OUTPUTS": block_outputs,
        "BLOCK_PIXELS": config.block_pixels,
    }
    launch(
        _multiply, (tiles, config.split), arguments, constants,
        num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip


@triton.jit
def _multiply(
    x, quads, parts, pixel_count, term_stride,
    gain, gain_factor, bias, slope, passes, residual, y, signs, mask,
    SOURCE: tl.constexpr, CHANNELS: tl.constexpr, RESULT: tl.constexpr, OUTPUTS: tl.constexpr,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr, TRANSPOSED: tl.constexpr,
    TERMS: tl.constexpr, SPLIT: tl.constexpr, PLUS_ONES: tl.constexpr, INLINE_PTX: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
    RESULTS: tl.constexpr, DTYPE: tl.constexpr, GATE: tl.constexpr, ELU: tl.constexpr,
):  # fmt: skip
    """One tile of outputs × pixels, over one part of K.

    Tiles of the same pixels follow one another, so that they find the activations in the L2 cache.
    """
    CHUNKS: tl.constexpr = (CHANNELS + DEPTH - 1) // DEPTH
    QUADS: tl.constexpr = KERNEL[0] * KERNEL[1] * CHUNKS
    STEPS: tl.constexpr = QUADS * TERMS
    PART: tl.constexpr = (STEPS + SPLIT - 1) // SPLIT
    BLOCKS: tl.constexpr = (OUTPUTS + BLOCK_OUTPUTS - 1) // BLOCK_OUTPUTS
    first_output = tl.program_id(0) % BLOCKS * BLOCK_OUTPUTS
    first_pixel = tl.program_id(0) // BLOCKS * BLOCK_PIXELS
    pixels = first_pixel + tl.arange(0, BLOCK_PIXELS)
    first_image = first_pixel // (RESULT[0] * RESULT[1])
    x += first_image.to(tl.int64) * (SOURCE[0] * SOURCE[1] * CHANNELS)
    image = pixels // (RESULT[0] * RESULT[1]) - first_image
    row, column = pixels // RESULT[1] % RESULT[0], pixels % RESULT[1]
    outputs = tl.minimum(first_output + tl.arange(0, BLOCK_OUTPUTS), OUTPUTS - 1)
    words = quads + outputs[:, None] * (QUADS * 4) + tl.arange(0, 4)[None, :]
    sums = tl.zeros((BLOCK_OUTPUTS, BLOCK_PIXELS), tl.float32)
    gates = sums
    # The bound is a constant: after a loop that might not be entered, zeros could stand in the
    # place of pending sums, and for that ptxas would let no two products overlap.
    for index in range(PART):
        step = index if SPLIT == 1 else tl.program_id(1) * PART + index
        exists = pixels < pixel_count
        if PART * SPLIT != STEPS:
            exists = exists & (step < STEPS)
            step = tl.minimum(step, STEPS - 1)
        quad = step // TERMS
        tap = 0 if QUADS == CHUNKS else quad // CHUNKS
        source_row, row_exists = _source(
            row, tap // KERNEL[1], SOURCE[0], STRIDE[0], PADDING[0], TRANSPOSED
        )
        source_column, column_exists = _source(
            column, tap % KERNEL[1], SOURCE[1], STRIDE[1], PADDING[1], TRANSPOSED
        )
        pixel = (image * SOURCE[0] + source_row) * SOURCE[1] + source_column
        channel = quad % CHUNKS * DEPTH + tl.arange(0, DEPTH)
        exists = (exists & row_exists & column_exists)[:, None]
        if CHUNKS * DEPTH != CHANNELS:
            exists = exists & (channel < CHANNELS)[None, :]
        term = x if TERMS == 1 else x + tl.cast(step % TERMS, tl.int64) * term_stride
        tile = tl.trans(tl.load(term + pixel[:, None] * CHANNELS + channel[None, :], exists, 0.0))
        weights = _expand(tl.load(words + quad * 4), PLUS_ONES, INLINE_PTX, x.dtype.element_ty)
        sums = tl.dot(weights, tile, sums)
        if GATE:
            gate_words = tl.load(words + (RESULTS * QUADS + quad) * 4)
            weights = _expand(gate_words, PLUS_ONES, INLINE_PTX, x.dtype.element_ty)
            gates = tl.dot(weights, tile, gates)

    if parts is None:
        finish_tile(
            sums, gates, first_output, first_pixel, pixel_count,
            gain, gain_factor, bias, slope, passes, residual, y, signs, mask,
            RESULTS, DTYPE, GATE, ELU,
        )  # fmt: skip
    else:
        parts += tl.program_id(1).to(tl.int64) * pixel_count * OUTPUTS
        store_part(parts, sums, first_output, first_pixel, pixel_count, OUTPUTS)


@triton.jit
def _source(
    place, tap, SIZE: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
    TRANSPOSED: tl.constexpr,
):  # fmt: skip
    """Where on an axis a tap reads for the result at `place`, and whether the image has that."""
    if TRANSPOSED:
        strided = place + PADDING - tap
        source = strided // STRIDE
        exists = (strided >= 0) & (source < SIZE)
        if STRIDE > 1:
            exists = exists & (strided % STRIDE == 0)
    else:
        source = place * STRIDE + tap - PADDING
        exists = (source >= 0) & (source < SIZE)
    return source, exists


@triton.jit
def _expand(words, PLUS_ONES: tl.constexpr, INLINE_PTX: tl.constexpr, DTYPE: tl.constexpr):
    """The weights ±1 [outputs, 128] of quads [outputs, 4].

    Joins stay in registers. Each adds a dimension of 2: h and the bits of j, from the lowest, then
    e, as `to_quads` calls them.
    """
    for bit in tl.static_range(4):
        words = tl.join(words, words << (1 << bit))
    pairs = _with_signs(words, PLUS_ONES, INLINE_PTX)
    weights = tl.join(pairs.to(tl.int16), (pairs >> 16).to(tl.int16)).to(DTYPE, bitcast=True)
    return tl.reshape(tl.permute(weights, (0, 5, 4, 3, 2, 1, 6)), (words.shape[0], DEPTH))


@triton.jit
def _with_signs(signs, PLUS_ONES: tl.constexpr, INLINE_PTX: tl.constexpr):
    """Two 16-bit numbers ±1 in a word, with the top bits of the halves of `signs`."""
    if INLINE_PTX:  # one instruction; ptxas would make two of the expression below
        return tl.inline_asm_elementwise(
            "// WITH SIGNS\nlop3.b32 $0, $1, 0x80008000, $2, 0xEA;",
            "=r,r,r",
            [signs, PLUS_ONES],
            dtype=tl.int32,
            is_pure=True,
            pack=1,
        )
    return signs & SIGNS | PLUS_ONES
