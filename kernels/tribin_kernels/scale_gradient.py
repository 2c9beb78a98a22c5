"""What the products of the backward pass take: scaled gradients, and float32 as bfloat16 terms.

A float32 has 24 bits of mantissa and a bfloat16 has 8: x is the sum of three of them exactly, so
that three products on the 16-bit tensor core make one of float32.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from tribin_kernels.dtypes import KERNEL_DTYPES
from tribin_kernels.known_multiple import known_multiple
from tribin_kernels.launch import launch
from tribin_kernels.reference import memory_format

_TILE_PIXELS = 32
_TILE_CHANNELS = 64
_STEPS = 4
_SPLIT_TILE = 1024
_MAX_PIXELS = 2**30


def scale_gradient(
    grad_y: Tensor, gain: Tensor, gain_factor: float, *, dtype: torch.dtype, terms: bool = False
) -> tuple[Tensor, Tensor]:
    """grad_y · (gain · gain_factor), in float32 and rounded to `dtype`, and the bias's gradient.

    Args:
        grad_y: [N, out, H, W], float32, bfloat16 or float16; copied first only if no one stride
            describes H and W together.
        gain: [out], floating point.
        gain_factor: of all gains.
        dtype: of the scaled gradient.
        terms: give the float32 product as `split_float32` does, whatever `dtype` is.

    Returns:
        The scaled gradient, [N, out, H, W] or bfloat16 [3, N, out, H, W], channels-last, and the
        sum of grad_y over its P pixels, float32 [out]. That sum is the same in every run, and off
        by at most (P/128 + 128) · 2⁻²⁴ · Σ|grad_y|, to first order.

    Raises:
        TypeError: if grad_y has another dtype.
        ValueError: if shapes don't fit, or grad_y has more than 2³⁰ pixels.
    """
    _check(grad_y, gain)
    batch, outputs, height, width = grad_y.shape
    pixels = batch * height * width
    shape = (batch, height, width, outputs)
    if terms:
        scaled = grad_y.new_empty((3, *shape), dtype=torch.bfloat16)
    else:
        scaled = grad_y.new_empty(shape, dtype=dtype)
    programs = triton.cdiv(pixels, _TILE_PIXELS * _STEPS)
    partial_sums = grad_y.new_empty((programs, outputs), dtype=torch.float32)
    images = grad_y.flatten(2)
    image_pixels = height * width
    image_stride, channel_stride, pixel_stride = images.stride()
    if image_pixels == 1:
        pixel_stride = image_stride
    launch(
        _scale_gradient,
        (programs, triton.cdiv(outputs, _TILE_CHANNELS)),
        {
            "grad_y": images,
            "gain": gain,
            "gain_factor": gain_factor,
            "scaled": scaled,
            "partial_sums": partial_sums,
            "term_stride": pixels * outputs,
            "pixels": pixels,
            "outputs": outputs,
            "image_pixels": image_pixels,
            "image_stride": image_stride,
            "pixel_stride": pixel_stride,
            "channel_stride": channel_stride,
        },
        {
            "ONE_STRIDE": batch == 1 or image_stride == image_pixels * pixel_stride,
            "TERMS": terms,
            "MULTIPLE": math.gcd(8, outputs),
            "STRIDE_MULTIPLE": math.gcd(8, image_stride, pixel_stride),
            "PIXELS": _TILE_PIXELS,
            "CHANNELS": _TILE_CHANNELS,
            "STEPS": _STEPS,
        },
    )
    return scaled.movedim(-1, -3), partial_sums.sum(0)


def split_float32(x: Tensor) -> Tensor:
    """The three bfloat16 terms of x: hi = x, mid = x − hi, lo = x − hi − mid, each rounded.

    Their sum is x exactly where |x| is 0 or at least 2⁻¹¹⁰, and off by at most 2⁻¹³⁴ below, where
    the remainders are denormal. Where hi is infinite, as for a finite x that rounds to it, mid and
    lo are 0; where x is NaN, all are.

    Args:
        x: float32, any shape; copied first if neither contiguous nor channels-last.

    Returns:
        bfloat16 [3, ...], each term of the memory order of x.

    Raises:
        TypeError: if x has another dtype.
    """
    if x.dtype != torch.float32:
        raise TypeError(f"split_float32: x has the dtype {x.dtype}, wanted float32")
    x = x.contiguous(memory_format=memory_format(x))
    elements = x.numel()
    terms = torch.empty_strided(
        (3, *x.shape), (elements, *x.stride()), dtype=torch.bfloat16, device=x.device
    )
    launch(
        _split_float32,
        (triton.cdiv(elements, _SPLIT_TILE),),
        {"x": x, "terms": terms, "elements": elements},
        {"TILE": _SPLIT_TILE},
    )
    return terms


def _check(grad_y: Tensor, gain: Tensor) -> None:
    if grad_y.dtype not in KERNEL_DTYPES:
        raise TypeError(
            f"scale_gradient: grad_y has the dtype {grad_y.dtype}, wanted float32, bfloat16 or "
            "float16"
        )
    if grad_y.ndim != 4:
        raise ValueError(
            f"scale_gradient: grad_y has the shape {list(grad_y.shape)}, wanted [N, out, H, W]"
        )
    if gain.shape != grad_y.shape[1:2]:
        raise ValueError(
            f"scale_gradient: gain has the shape {list(gain.shape)}, "
            f"wanted {list(grad_y.shape[1:2])}"
        )
    if grad_y[:, :1].numel() > _MAX_PIXELS:
        raise ValueError(
            f"scale_gradient: grad_y has the shape {list(grad_y.shape)}, wanted at most "
            f"{_MAX_PIXELS} pixels"
        )


@triton.jit
def _scale_gradient(
    grad_y,
    gain,
    gain_factor,
    scaled,
    partial_sums,
    term_stride,
    pixels,
    outputs,
    image_pixels,
    image_stride,
    pixel_stride,
    channel_stride,
    ONE_STRIDE: tl.constexpr,
    TERMS: tl.constexpr,
    MULTIPLE: tl.constexpr,
    STRIDE_MULTIPLE: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    STEPS: tl.constexpr,
):
    """STEPS tiles of PIXELS × CHANNELS."""
    outputs = known_multiple(outputs, MULTIPLE)
    image_stride = known_multiple(image_stride, STRIDE_MULTIPLE)
    pixel_stride = known_multiple(pixel_stride, STRIDE_MULTIPLE)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    scale = tl.load(gain + channel, channel < outputs, other=0.0).to(tl.float32) * gain_factor
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for step in tl.static_range(STEPS):
        pixel = (tl.program_id(0) * STEPS + step) * PIXELS + tl.arange(0, PIXELS)[:, None]
        if ONE_STRIDE:
            offset = pixel.to(tl.int64) * pixel_stride
        else:
            offset = (pixel // image_pixels).to(tl.int64) * image_stride
            offset += (pixel % image_pixels).to(tl.int64) * pixel_stride
        inside = (pixel < pixels) & (channel < outputs)
        values = tl.load(grad_y + offset + channel.to(tl.int64) * channel_stride, inside, other=0.0)
        values = values.to(tl.float32)
        total += values
        # A multiply-add of 0, so that no compiler fuses the product into the terms' differences.
        product = tl.fma(values, tl.broadcast_to(scale[None, :], values.shape), 0.0)
        target = scaled + pixel.to(tl.int64) * outputs + channel
        if TERMS:
            high, middle, low = _terms(product)
            tl.store(target, high, inside)
            tl.store(target + term_stride, middle, inside)
            tl.store(target + term_stride + term_stride, low, inside)
        else:
            tl.store(target, product.to(scaled.dtype.element_ty), inside)
    row = tl.program_id(0).to(tl.int64) * outputs
    tl.store(partial_sums + row + channel, tl.sum(total, axis=0), channel < outputs)


@triton.jit
def _split_float32(x, terms, elements, TILE: tl.constexpr):
    element = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = element < elements
    high, middle, low = _terms(tl.load(x + element, inside))
    tl.store(terms + element, high, inside)
    tl.store(terms + element + elements, middle, inside)
    tl.store(terms + element + elements + elements, low, inside)


@triton.jit
def _terms(x):
    high = x.to(tl.bfloat16)
    rest = tl.where(tl.abs(high.to(tl.float32)) == float("inf"), 0.0, x - high.to(tl.float32))
    middle = rest.to(tl.bfloat16)
    low = (rest - middle.to(tl.float32)).to(tl.bfloat16)
    return high, middle, low
