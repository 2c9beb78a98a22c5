"""`packed_conv2d` on a CPU; `reference.packed_conv2d` says what it computes."""

from typing import Literal

import torch
from torch import Tensor

from tribin_kernels import reference
from tribin_kernels.conv2d_shape import Conv2dShape
from tribin_kernels.cpu import int8, xnor
from tribin_kernels.cpu.native import native_library
from tribin_kernels.reference.packed_conv2d import affine, finish, prelu, result_format

Route = Literal["xnor", "int8", "real"]


INT8_PIXELS = 1024
"""In how many pixels of input oneDNN's int8 earns back what preparing its weights costs."""


def choose_route(x: Tensor, scale: Tensor, binary_input: bool) -> Route:
    """The one place that decides how a layer is computed.

    ``xnor``, the native kernel, and ``int8``, oneDNN's, are exact for signs; on AVX-512, 16 images
    of 256 channels take them a tenth and two fifths of float32's time (`tribin profile kernels
    --op packed_conv2d`). bfloat16 takes half of it, but rounds sums beyond 256. Everything else is
    ``real``: the weights of one layer at a time as float32.
    """
    dtype, _ = result_format(x, scale)
    if dtype != torch.float32 or not (binary_input or x.dtype == torch.int32):
        return "real"
    if native_library() is not None:
        return "xnor"
    pixels = x[..., 0].numel() if x.dtype == torch.int32 else x[:, 0].numel()
    return "int8" if int8.is_available() and pixels >= INT8_PIXELS else "real"


def packed_conv2d(
    x: Tensor,
    weight_bits: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    slope: Tensor | None,
    residual: Tensor | None,
    channels: int,
    stride: list[int],
    padding: list[int],
    binary_input: bool,
    gate: bool,
    elu: bool,
    to_bits: bool,
) -> Tensor:
    """Inference from row bits, by the route that `choose_route` gives."""
    route = choose_route(x, scale, binary_input)
    if route == "real":
        return reference.packed_conv2d(
            x, weight_bits, scale, bias, slope, residual, channels, stride, padding,
            binary_input, gate, elu, to_bits,
        )  # fmt: skip
    if route == "int8":
        product = _int8_product(x, weight_bits, channels, stride, padding)
        z = prelu(affine(product, scale, bias), slope)
    else:  # the exponential linear unit keeps every sign; what follows a gate is left to torch
        signs = _row_bits(x)
        shape = Conv2dShape.of_bits(signs, weight_bits, channels, stride, padding)
        fused_residual, residual = (None, residual) if gate else (residual, None)
        z = xnor.conv2d_w1a1(
            signs, weight_bits, scale, bias, slope, fused_residual, shape,
            to_bits=to_bits and not gate,
        )  # fmt: skip
        if z.dtype == torch.int32:
            return z
    return finish(z, residual, gate, elu, to_bits, *result_format(x, scale))


def _row_bits(x: Tensor) -> Tensor:
    return x if x.dtype == torch.int32 else xnor.pack_signs(x.permute(0, 2, 3, 1))


def _int8_product(
    x: Tensor, weight_bits: Tensor, channels: int, stride: list[int], padding: list[int]
) -> Tensor:
    if x.dtype == torch.int32:
        negative = reference.unpack_bits(x, channels).permute(0, 3, 1, 2)
    else:
        negative = x < 0
    weight = reference.unpack_signs(weight_bits, channels, torch.int8).permute(0, 3, 1, 2)
    return int8.conv2d_w1a1(negative, weight, stride, padding)
