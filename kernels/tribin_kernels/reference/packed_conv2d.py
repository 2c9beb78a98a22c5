"""Inference from row bits: conv2d with 1-bit weights and what follows it, up to the next bits."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tribin_kernels.reference.binary_conv2d import memory_format
from tribin_kernels.reference.packing import pack_signs, unpack_signs
from tribin_kernels.reference.signs import sign


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
    """y = elu(gate(prelu(conv2d(x, W)·scale + bias)) + residual), each step where asked.

    It is computed in float32, in float64 where x is, and rounded at the end.

    Args:
        x: [N, C, H, W], floating point, or the row bits of its signs, int32 [N, H, W, ceil(C/32)].
        weight_bits: row bits along the channels of each tap, int32 [out, kh, kw, ceil(C/32)].
        scale: [out].
        bias: [out].
        slope: [out], z where z > 0, else slope·z.
        residual: of y's shape.
        channels: C.
        stride: vertical and horizontal.
        padding: rows and columns of zeros on each side, with binary input too.
        binary_input: take the signs of x.
        gate: a·sigmoid(b) of the two halves of the outputs; y has half as many.
        elu: the exponential linear unit.
        to_bits: return the row bits of y's signs.

    Returns:
        y, [N, results, H', W'], of x's dtype, or of scale's where x is bits; channels-last where x
        is, or is bits. Or its signs, int32 [N, H', W', ceil(results/32)].
    """
    dtype, form = result_format(x, scale)
    precise = torch.float64 if dtype == torch.float64 else torch.float32
    if x.dtype == torch.int32:
        x = unpack_signs(x, channels, precise).permute(0, 3, 1, 2)
    else:
        x = sign(x, precise) if binary_input else x.to(precise)
    weight = unpack_signs(weight_bits, channels, precise).permute(0, 3, 1, 2)
    weight = weight.contiguous(memory_format=form)  # which decides the order of sums
    with torch.autocast(x.device.type, enabled=False):
        product = F.conv2d(x, weight, None, stride, padding)
    z = prelu(affine(product, scale, bias), slope)
    return finish(z, residual, gate, elu, to_bits, dtype, form)


def result_format(x: Tensor, scale: Tensor) -> tuple[torch.dtype, torch.memory_format]:
    """Dtype and memory format of a result that is not bits."""
    if x.dtype == torch.int32:
        return scale.dtype, torch.channels_last
    return x.dtype, memory_format(x)


def affine(product: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """product·scale + bias, per channel, of the product's dtype."""
    scale = scale.to(product.dtype).view(-1, 1, 1)
    if bias is None:
        return product * scale
    return torch.addcmul(bias.to(product.dtype).view(-1, 1, 1), product, scale)


def prelu(z: Tensor, slope: Tensor | None) -> Tensor:
    """Z where z > 0, else slope·z, per channel; `F.prelu`, but autocast doesn't lower it."""
    if slope is None:
        return z
    return torch.where(z > 0, z, z * slope.to(z.dtype).view(-1, 1, 1))


def finish(
    z: Tensor,
    residual: Tensor | None,
    gate: bool,
    elu: bool,
    to_bits: bool,
    dtype: torch.dtype,
    form: torch.memory_format,
) -> Tensor:
    """What follows the PReLU; the arguments are those of `packed_conv2d`."""
    z = z.contiguous(memory_format=form)  # torch's exponentials round by the place in memory
    if gate:
        a, b = z.chunk(2, dim=1)
        z = a * b.sigmoid()
    if residual is not None:
        z = z + residual.to(z.dtype)
    if elu:
        z = F.elu(z)
    if to_bits:
        return pack_signs(z.permute(0, 2, 3, 1))
    return z.to(dtype).contiguous(memory_format=form)
