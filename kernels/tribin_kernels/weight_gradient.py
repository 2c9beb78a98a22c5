"""The product of a W1A1 layer's weight gradient, with the input as bits.

G[n, c, tap] = Σ dY[p, n] · X[p at tap, c] over the output pixels p, where X = ±1 from row bits and
0 outside the image. It is the gradient of the unscaled weight; `finish_weight_gradient` makes those
of the latent weight and the gain of it.

Xᵀ is the left operand of the tensor core, which Hopper takes from registers: a thread's rows are
neighbouring channels, so that one word of a pixel holds the bits of all its rows, and a shift and
a logical operation expand one channel of two pixels.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from tribin_kernels.conv2d_shape import Conv2dShape
from tribin_kernels.formats import check_format
from tribin_kernels.launch import launch
from tribin_kernels.reference.packing import words_per_row

ONES = {torch.bfloat16: 0x3F803F80, torch.float16: 0x3C003C00}
"""Two ones in the halves of a 32-bit register, by dtype."""

MAX_PIXELS = 2**31 - 2**16
"""Pixels are counted in 32 bits, up to a few steps beyond the last one."""

ENOUGH_PROGRAMS = 512
"""Programs that fill a GPU: past that, more partial sums are only more to write and to read."""


@dataclass(frozen=True)
class WeightGradientConfig:
    """How `product_gradient` is cut into programs.

    Args:
        block_channels, block_outputs: the tile of G that a program makes at most, powers of two;
            16, 32 or 64 channels a warp, and 16 outputs or more.
        block_pixels: of one step of the sum.
        split: partial sums at most, each over a part of the pixels. With 7 the 3×3 convolution of
            256 channels has 126 programs, for the 132 processors of an H200.
        num_warps, num_stages: as Triton has them.
    """

    block_channels: int = 256
    block_outputs: int = 128
    block_pixels: int = 64
    split: int = 7
    num_warps: int = 8
    num_stages: int = 3


def product_gradient(
    grad_y: Tensor,
    signs: Tensor,
    shape: Conv2dShape,
    config: WeightGradientConfig = WeightGradientConfig(),
) -> Tensor:
    """Partial sums of the gradient of the unscaled weight, the same from run to run.

    Args:
        grad_y: [batch, outputs, height', width'], bfloat16 or float16; or the three bfloat16 terms
            of a float32, [3, batch, ...]. Copied where it is not channels-last.
        signs: row bits of the input, int32 [batch, height, width, ceil(channels/32)].
        shape: of the convolution.
        config: of the launch.

    Returns:
        float32 [split, outputs, channels, *kernel], each channels-last; their sum is G. Fewer than
        `config.split` of them where the layer is large or the pixels are few.

    Raises:
        TypeError: signs are not int32.
        ValueError: signs or grad_y are of another shape, or there are 2³¹ − 2¹⁶ pixels or more.
    """
    words = words_per_row(shape.channels)
    check_format("signs", signs, (shape.batch, shape.height, shape.width, words))
    wanted = (shape.batch, shape.outputs, *shape.output_size)
    if grad_y.shape[-4:] != wanted:
        raise ValueError(f"grad_y has the shape {list(grad_y.shape)}, wanted {list(wanted)}")
    pixels = max(shape.pixels, shape.batch * shape.height * shape.width)
    if pixels >= MAX_PIXELS:
        raise ValueError(f"shape: {pixels} pixels are not fewer than {MAX_PIXELS}")
    block_channels = _fitted(config.block_channels, shape.channels, 16 * config.num_warps)
    block_outputs = _fitted(config.block_outputs, shape.outputs, 16)
    channel_tiles = triton.cdiv(shape.channels, block_channels)
    tiles = triton.cdiv(shape.outputs, block_outputs) * shape.taps * channel_tiles
    steps = triton.cdiv(shape.pixels, config.block_pixels)
    most = min(config.split, max(1, ENOUGH_PROGRAMS // max(1, tiles)))
    steps_per_part = max(1, triton.cdiv(steps, most))
    split = max(1, triton.cdiv(steps, steps_per_part))
    sizes = (split, shape.outputs, *shape.kernel, shape.channels)
    partial_sums = torch.empty(sizes, dtype=torch.float32, device=signs.device)
    launch(
        _product_gradient_kernel,
        (tiles, split),
        {
            "grad_y": grad_y.movedim(-3, -1).contiguous(),
            "signs": signs,
            "partial_sums": partial_sums,
            "pixels": shape.pixels,
            "steps_per_part": steps_per_part,
            "ones": ONES[grad_y.dtype],
        },
        {
            "TERMS": 3 if grad_y.dim() == 5 else 1,
            "OUTPUTS": shape.outputs,
            "CHANNELS": shape.channels,
            "ROW_WORDS": signs.shape[-1],
            "SIZE": (shape.height, shape.width),
            "OUTPUT_SIZE": shape.output_size,
            "KERNEL": shape.kernel,
            "STRIDE": shape.stride,
            "PADDING": shape.padding,
            "BLOCK_CHANNELS": block_channels,
            "BLOCK_OUTPUTS": block_outputs,
            "BLOCK_PIXELS": config.block_pixels,
            "WARPS": config.num_warps,
        },
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    return partial_sums.movedim(-1, 2)


def _fitted(block: int, size: int, least: int) -> int:
    """A block no larger than it takes to hold all of `size`."""
    return min(block, max(least, triton.next_power_of_2(size)))


@triton.jit
def _product_gradient_kernel(
    grad_y,
    signs,
    partial_sums,
    pixels,
    steps_per_part,
    ones,
    TERMS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROW_WORDS: tl.constexpr,
    SIZE: tl.constexpr,
    OUTPUT_SIZE: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    WARPS: tl.constexpr,
):
    TAPS: tl.constexpr = KERNEL[0] * KERNEL[1]
    OUTPUT_TILES: tl.constexpr = (OUTPUTS + BLOCK_OUTPUTS - 1) // BLOCK_OUTPUTS
    WORDS: tl.constexpr = BLOCK_CHANNELS // 32
    # Programs of one part run side by side and share its rows of grad_y in the cache.
    tile = tl.program_id(0)
    part = tl.program_id(1)
    first_output = tile % OUTPUT_TILES * BLOCK_OUTPUTS
    tap = tile // OUTPUT_TILES % TAPS
    first_channel = tile // (OUTPUT_TILES * TAPS) * BLOCK_CHANNELS

    output = first_output + tl.arange(0, BLOCK_OUTPUTS)
    word = first_channel // 32 + tl.arange(0, WORDS)
    k = tl.arange(0, BLOCK_PIXELS)
    begin = part * steps_per_part * BLOCK_PIXELS
    product = tl.zeros((BLOCK_CHANNELS, BLOCK_OUTPUTS), tl.float32)
    tl.assume(steps_per_part > 0)  # a loop that may be empty makes ptxas serialize the products
    # The bits are expanded anew for each term: cheaper than room for all its rows at once.
    for term in tl.range(TERMS):
        for i in tl.range(steps_per_part):
            step = begin + i * BLOCK_PIXELS
            source, inside = _under_tap(
                step + k, tap, pixels, SIZE, OUTPUT_SIZE, KERNEL, STRIDE, PADDING
            )
            words = tl.load(
                signs + source.to(tl.int64)[:, None] * ROW_WORDS + word[None, :],
                mask=inside[:, None] & (word < ROW_WORDS)[None, :],
                other=0,
            )
            x = _expand(words, ones, grad_y.dtype.element_ty, WARPS)
            pixel = step + _pixel_of_k(k, BLOCK_PIXELS)
            # A bit 0 from outside the image expands to +1, so it is grad_y that must be 0 there.
            _, inside = _under_tap(pixel, tap, pixels, SIZE, OUTPUT_SIZE, KERNEL, STRIDE, PADDING)
            row = tl.cast(pixels, tl.int64) * term + pixel
            gradient = tl.load(
                grad_y + row[:, None] * OUTPUTS + output[None, :],
                mask=inside[:, None] & (output < OUTPUTS)[None, :],
                other=0,
            )
            product = tl.dot(x, gradient, product)

    channel = first_channel + tl.arange(0, BLOCK_CHANNELS)
    row = (part * OUTPUTS + output).to(tl.int64) * TAPS + tap
    tl.store(
        partial_sums + row[None, :] * CHANNELS + channel[:, None],
        _in_order(product, WARPS),
        mask=(channel < CHANNELS)[:, None] & (output < OUTPUTS)[None, :],
    )


@triton.jit
def _under_tap(
    pixel,
    tap,
    pixels,
    SIZE: tl.constexpr,
    OUTPUT_SIZE: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
):
    """Input pixel that a tap of each output pixel falls on, and whether there is one."""
    unsigned = pixel.to(tl.uint32)  # which makes division by a constant cheap
    row = (unsigned // OUTPUT_SIZE[1] % OUTPUT_SIZE[0]).to(tl.int32)
    column = (unsigned % OUTPUT_SIZE[1]).to(tl.int32)
    image = (unsigned // (OUTPUT_SIZE[0] * OUTPUT_SIZE[1])).to(tl.int32)
    y = row * STRIDE[0] - PADDING[0] + tap // KERNEL[1]
    x = column * STRIDE[1] - PADDING[1] + tap % KERNEL[1]
    inside = (pixel < pixels) & (y >= 0) & (y < SIZE[0]) & (x >= 0) & (x < SIZE[1])
    return (image * SIZE[0] + y) * SIZE[1] + x, inside


@triton.jit
def _pixel_of_k(k, BLOCK_PIXELS: tl.constexpr):
    """A register of two neighbouring k holds pixels half a step apart: no bank conflicts."""
    return k // 2 + k % 2 * (BLOCK_PIXELS // 2)


@triton.jit
def _expand(words, ones, DTYPE: tl.constexpr, WARPS: tl.constexpr):
    """Words [pixels, channels/32] to ±1 [rows, k]; `_in_order` says which channel a row is.

    Row 8·(2·(warps·i + warp) + half) + g, of the thread g of a warp's 8 that hold rows, is channel
    2·i + half of those that belong to the thread (warp, g).
    """
    PAIRS: tl.constexpr = words.shape[0] // 2
    WORDS: tl.constexpr = words.shape[1]
    BITS: tl.constexpr = WORDS * 4 // WARPS  # that a thread has of each pixel
    first, second = tl.split(tl.permute(tl.reshape(words, (2, PAIRS, WORDS)), (1, 2, 0)))
    shift = tl.arange(0, 32 // BITS) * BITS
    halves = ((first[:, :, None] >> shift) & 0xFFFF) | ((second[:, :, None] >> shift) << 16)
    x = _expand_bits(halves, ones, DTYPE, 0, 1, BITS)
    x = tl.reshape(x, (PAIRS, WARPS, 8, 2, BITS // 2, 2))
    x = tl.permute(x, (4, 1, 5, 2, 0, 3))
    return tl.reshape(x, (32 * WORDS, 2 * PAIRS))


@triton.jit
def _in_order(product, WARPS: tl.constexpr):
    """Rows of `_expand`'s order to channels."""
    BITS: tl.constexpr = product.shape[0] // (8 * WARPS)
    rows = tl.reshape(product, (BITS // 2, WARPS, 2, 8, product.shape[1]))
    return tl.reshape(tl.permute(rows, (1, 3, 0, 2, 4)), product.shape)


@triton.jit
def _expand_bits(
    halves,
    ones,
    DTYPE: tl.constexpr,
    FIRST: tl.constexpr,
    STEP: tl.constexpr,
    COUNT: tl.constexpr,
):
    """COUNT bits of both halves, FIRST, FIRST + STEP, …: [..., 2 halves, 2, …, 2]."""
    if COUNT == 1:
        return _expand_bit(halves, ones, DTYPE, FIRST)
    else:
        return tl.join(
            _expand_bits(halves, ones, DTYPE, FIRST, 2 * STEP, COUNT // 2),
            _expand_bits(halves, ones, DTYPE, FIRST + STEP, 2 * STEP, COUNT // 2),
        )


@triton.jit
def _expand_bit(halves, ones, DTYPE: tl.constexpr, BIT: tl.constexpr):
    """±1 by a bit of each 16-bit half, [..., 2].

    With `ones` a run-time value, `and` and `or` are one instruction: it takes one constant only.
    """
    SIGNS: tl.constexpr = -0x7FFF8000
    both = (halves << (15 - BIT)) & SIGNS | ones
    low = both.to(tl.int16).to(DTYPE, bitcast=True)
    high = (both >> 16).to(tl.int16).to(DTYPE, bitcast=True)
    return tl.join(low, high)
