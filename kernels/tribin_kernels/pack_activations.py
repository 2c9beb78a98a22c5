"""Signs and masks of activations to bits, in one pass over the activations.

All formats are made of bytes that hold 8 neighbouring channels of a pixel. Where channels are
contiguous and 16-bit, a thread reads such 8 in one 128-bit load and stores their byte where each
format has it, so no thread needs another's bits; the lanes of a warp store whole 32-byte sectors.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from tribin_kernels.dtypes import KERNEL_DTYPES
from tribin_kernels.formats import MMA_DEPTH
from tribin_kernels.known_multiple import known_multiple
from tribin_kernels.launch import launch
from tribin_kernels.reference.packing import words_per_row

_PAIRED_BYTES = MMA_DEPTH // 8
_MAX_PIXELS = 2**30


@dataclass(frozen=True)
class PackActivationsConfig:
    """How the work is cut.

    Args:
        bytes_per_thread: packed bytes of a program by its threads; each is of 8 channels.
        num_warps: of a program.
    """

    bytes_per_thread: int = 4
    num_warps: int = 4


def pack_activations(
    x: Tensor,
    *,
    mask: bool = True,
    paired_size: tuple[int, int] | None = None,
    affine: tuple[Tensor, Tensor] | None = None,
    config: PackActivationsConfig = PackActivationsConfig(),
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Pack the signs of x, and where asked |x| ≤ 1 and the signs in the paired format.

    Args:
        x: [N, C, H, W], float32, bfloat16 or float16, fastest in channels-last order. It is copied
            first only if no one stride describes H and W together.
        mask: pack the mask of the straight-through estimator, |x| ≤ 1.
        paired_size: height and width of the paired format's images; the pixels of x fill them in
            the order of N, H and W.
        affine: scale and shift, [C] each, floating point; x·scale + shift is packed, a fused
            multiply-add in float32, instead of x.

    Returns:
        Row bits of the signs and of the mask, int32 [N, H, W, ceil(C/32)], and the signs as
        `formats.to_paired` has them, int32 [ceil(N·H·W/(2·height·width)), ceil(C/256), height,
        width, 4, 2, 2]. None for what was not asked. Bits are 0 for −0.0 and NaN.

    Raises:
        TypeError: if x has another dtype.
        ValueError: if shapes don't fit, or x or the paired format has more than 2³⁰ pixels.
    """
    _check(x, paired_size, affine)
    batch, channels, height, width = x.shape
    planes, plane = _planes(x, paired_size)
    row_bits = (batch, height, width, words_per_row(channels))
    signs = x.new_empty(row_bits, dtype=torch.int32)
    passes = x.new_empty(row_bits, dtype=torch.int32) if mask else None
    paired = None
    if paired_size is not None:
        shape = (planes // 2, triton.cdiv(channels, MMA_DEPTH), *paired_size, 4, 2, 2)
        paired = x.new_empty(shape, dtype=torch.int32)
    _launch(x, affine, signs, passes, paired, planes, plane, config)
    return signs, passes, paired


def pack_rows(x: Tensor) -> Tensor:
    """Pack the signs of x into row bits along the last dimension.

    Args:
        x: [..., K], float32, bfloat16 or float16; copied first only if no one stride describes the
            other dimensions together.

    Returns:
        int32 [..., ceil(K/32)].

    Raises:
        TypeError: if x has another dtype.
        ValueError: if x has no dimension, or more than 2³⁰ rows.
    """
    if x.ndim == 0:
        raise ValueError("pack_rows: x has the shape [], wanted [..., K]")
    rows, length = x.shape[:-1].numel(), x.shape[-1]
    signs, _, _ = pack_activations(x.reshape(rows, length, 1, 1), mask=False)
    return signs.view(*x.shape[:-1], signs.shape[-1])


def _check(
    x: Tensor, paired_size: tuple[int, int] | None, affine: tuple[Tensor, Tensor] | None
) -> None:
    if x.dtype not in KERNEL_DTYPES:
        raise TypeError(
            f"pack_activations: x has the dtype {x.dtype}, wanted float32, bfloat16 or float16"
        )
    if x.ndim != 4:
        raise ValueError(f"pack_activations: x has the shape {list(x.shape)}, wanted [N, C, H, W]")
    for name, values in zip(("scale", "shift"), affine or (), strict=False):
        if values.shape != x.shape[1:2]:
            raise ValueError(
                f"pack_activations: the {name} of affine has the shape {list(values.shape)}, "
                f"wanted {list(x.shape[1:2])}"
            )
    if paired_size is not None and x.numel() and min(paired_size) < 1:
        raise ValueError(
            f"pack_activations: paired_size is {paired_size}, wanted height and width of 1 or more"
        )


def _planes(x: Tensor, paired_size: tuple[int, int] | None) -> tuple[int, int]:
    """The images of the paired format and their pixels; without it, one image of all pixels."""
    batch, _, height, width = x.shape
    pixels = batch * height * width
    planes, plane = 1, pixels
    if paired_size is not None:
        plane = math.prod(paired_size)
        planes = 2 * triton.cdiv(pixels, 2 * plane) if pixels else 0
    if max(pixels, planes * plane) > _MAX_PIXELS:
        raise ValueError(
            f"pack_activations: x has the shape {list(x.shape)} and paired_size is {paired_size}, "
            f"wanted at most {_MAX_PIXELS} pixels"
        )
    return planes, plane


def _launch(
    x: Tensor,
    affine: tuple[Tensor, Tensor] | None,
    signs: Tensor,
    passes: Tensor | None,
    paired: Tensor | None,
    planes: int,
    plane: int,
    config: PackActivationsConfig,
) -> None:
    """One launch; its programs run over `planes` images of `plane` pixels, and over channels."""
    images = x.flatten(2)
    batch, channels, image_pixels = images.shape
    image_stride, channel_stride, pixel_stride = images.stride()
    if image_pixels == 1:
        pixel_stride = image_stride
    scale, shift = affine or (None, None)
    row_bytes = 4 * signs.shape[-1]
    bytes_ = _PAIRED_BYTES if paired is not None else _bytes_of_tile(row_bytes)
    pixels_ = config.num_warps * 32 * config.bytes_per_thread // bytes_
    launch(
        _pack_activations,
        (planes * triton.cdiv(plane, pixels_), triton.cdiv(row_bytes, bytes_)),
        {
            "x": images,
            "scale": scale,
            "shift": shift,
            "signs": _as_bytes(signs),
            "passes": _as_bytes(passes),
            "paired": _as_bytes(paired),
            "channels": channels,
            "pixels": batch * image_pixels,
            "plane": plane,
            "image_pixels": image_pixels,
            "image_stride": image_stride,
            "pixel_stride": pixel_stride,
            "channel_stride": channel_stride,
        },
        {
            "ONE_STRIDE": batch == 1 or image_stride == image_pixels * pixel_stride,
            "MULTIPLE": math.gcd(8, channels, image_stride, pixel_stride),
            "PIXELS": pixels_,
            "BYTES": bytes_,
        },
        num_warps=config.num_warps,
    )


def _as_bytes(words: Tensor | None) -> Tensor | None:
    return None if words is None else words.view(torch.uint8)


def _bytes_of_tile(row_bytes: int) -> int:
    return min(triton.next_power_of_2(max(row_bytes, 4)), _PAIRED_BYTES)


@triton.jit
def _pack_activations(
    x,
    scale,
    shift,
    signs,
    passes,
    paired,
    channels,
    pixels,
    plane,
    image_pixels,
    image_stride,
    pixel_stride,
    channel_stride,
    ONE_STRIDE: tl.constexpr,
    MULTIPLE: tl.constexpr,
    PIXELS: tl.constexpr,
    BYTES: tl.constexpr,
):
    """PIXELS of a plane × BYTES of a row; an element's place in its byte is the first dimension."""
    blocks = tl.cdiv(plane, PIXELS)
    image = tl.program_id(0) // blocks
    start = tl.program_id(0) % blocks * PIXELS
    first_pixel = image * plane + start
    pixel = tl.arange(0, PIXELS)[:, None]
    in_plane = pixel < plane - start
    in_x = in_plane & (pixel < pixels - first_pixel)
    byte = tl.program_id(1) * BYTES + tl.arange(0, BYTES)
    bit = tl.arange(0, 8)[:, None, None]
    channel = 8 * byte + bit

    channels = known_multiple(channels, MULTIPLE)
    pixel_stride = known_multiple(pixel_stride, MULTIPLE)
    if ONE_STRIDE:
        x += first_pixel.to(tl.int64) * pixel_stride
        offset = pixel.to(tl.int64) * pixel_stride
    else:
        image_of_x = (first_pixel + pixel) // image_pixels
        pixel_of_x = (first_pixel + pixel) % image_pixels
        offset = image_of_x.to(tl.int64) * known_multiple(image_stride, MULTIPLE)
        offset += pixel_of_x.to(tl.int64) * pixel_stride
    offset += channel.to(tl.int64) * channel_stride
    if scale is not None:
        # Loaded before x: the compiler then moves these few, not x, to the other's threads.
        scales = tl.load(scale + channel, channel < channels, other=0.0).to(tl.float32)
        shifts = tl.load(shift + channel, channel < channels, other=0.0).to(tl.float32)
    # NaN, because it makes no bit: neither is NaN negative nor |NaN| ≤ 1, whatever the affine map.
    values = tl.load(x + offset, in_x & (channel < channels), other=float("nan")).to(tl.float32)
    if scale is not None:
        values = tl.fma(values, scales, shifts)
    # One sum for both: the signs' byte, and the mask's above it.
    bits = tl.where(values < 0, 1 << bit, 0) + tl.where(tl.abs(values) <= 1, 256 << bit, 0)
    bits = tl.sum(bits, axis=0)

    row_bytes = tl.cdiv(channels, 32) * 4
    # Said to be scattered, bytes are stored by the threads that have them; else the compiler sends
    # them through shared memory to make wider stores.
    target = tl.max_contiguous(pixel * row_bytes + byte, [1, 1])
    in_row = in_x & (byte < row_bytes)
    row = first_pixel.to(tl.int64) * row_bytes
    tl.store(signs + row + target, bits.to(tl.uint8), in_row)
    if passes is not None:
        tl.store(passes + row + target, (bits >> 8).to(tl.uint8), in_row)
    if paired is not None:
        half, q, t = byte // 16 % 2, byte // 4 % 4, byte % 4
        column = (image // 2 * tl.num_programs(1) + tl.program_id(1)).to(tl.int64) * plane + start
        target = pixel * 64 + t * 16 + half * 8 + image % 2 * 4 + q
        tl.store(paired + column * 64 + target, bits.to(tl.uint8), in_plane)
