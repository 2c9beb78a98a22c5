"""Calls of the native kernels in ``xnor.cpp``, where `native_library` has compiled them."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from tribin_kernels.conv2d_shape import Conv2dShape
from tribin_kernels.cpu.native import native_library
from tribin_kernels.reference.packing import words_per_row

_CONV2D_FIELDS = (
    "batch", "height", "width", "channels", "words", "out_height", "out_width", "outputs",
    "kernel_height", "kernel_width", "stride_y", "stride_x", "padding_y", "padding_x",
)  # fmt: skip


class _Conv2d(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in _CONV2D_FIELDS]


def pack_signs(x: Tensor) -> Tensor:
    """Row bits of the signs of x, float32 [..., K]."""
    x = x.contiguous()
    *rows, length = x.shape
    bits = torch.empty(*rows, words_per_row(length), dtype=torch.int32)
    count = ctypes.c_int64(bits[..., 0].numel() if length else 0)
    _library().tribin_pack_signs(_pointer(x), _pointer(bits), count, ctypes.c_int64(length))
    return bits


def conv2d_w1a1(
    signs_in: Tensor,
    weight_bits: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    slope: Tensor | None,
    residual: Tensor | None,
    shape: Conv2dShape,
    *,
    to_bits: bool,
) -> Tensor:
    """prelu(conv2d(x, W)·scale + bias) + residual of ±1 with ±1.

    Args:
        signs_in: row bits of x, int32 [N, H, W, ceil(C/32)].
        weight_bits: row bits of W, int32 [out, kh, kw, ceil(C/32)].
        scale: [out].
        bias: [out].
        slope: [out].
        residual: [N, out, H', W'].
        shape: the convolution.
        to_bits: return the row bits of the result's signs.

    Returns:
        float32 [N, out, H', W'], channels-last, or int32 [N, H', W', ceil(out/32)].
    """
    pixels = (shape.batch, *shape.output_size)
    channels = words_per_row(shape.outputs) if to_bits else shape.outputs
    result = torch.empty(*pixels, channels, dtype=torch.int32 if to_bits else torch.float32)
    if residual is not None:
        residual = residual.permute(0, 2, 3, 1)
    bits = [t.contiguous() for t in (signs_in, weight_bits)]
    reals = [t if t is None else t.float().contiguous() for t in (scale, bias, slope, residual)]
    outputs = (None, result) if to_bits else (result, None)
    _library().tribin_conv2d_w1a1(
        ctypes.byref(_Conv2d(*_sizes(shape))), *map(_pointer, (*bits, *reals, *outputs))
    )
    return result if to_bits else result.permute(0, 3, 1, 2)


def _library() -> ctypes.CDLL:
    library = native_library()
    assert library is not None
    return library


def _sizes(shape: Conv2dShape) -> Sequence[int]:
    words = words_per_row(shape.channels)
    if shape.is_pointwise:  # one line of pixels, so that no block of them is cut short
        return (1, 1, shape.pixels, shape.channels, words, 1, shape.pixels, shape.outputs,
                1, 1, 1, 1, 0, 0)  # fmt: skip
    return (shape.batch, shape.height, shape.width, shape.channels, words, *shape.output_size,
            shape.outputs, *shape.kernel, *shape.stride, *shape.padding)  # fmt: skip


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
