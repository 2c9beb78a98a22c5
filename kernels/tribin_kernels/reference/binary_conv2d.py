"""Binary convolution: y = conv2d(x, sign(v))·α + b with α = g/√n, n = in·kh·kw.

Padding is the value 0, with binary input too: it adds nothing to the product. Everything else is
as in the binary linear layer. Bits are packed along the channels of each pixel.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from tribin_kernels.reference.packing import pack_bits, unpack_bits, unpack_signs
from tribin_kernels.reference.signs import (
    activation_mask,
    keep,
    plus_minus_one,
    sign,
    weight_scale,
)


def binary_conv2d(
    x: Tensor,
    latent_weight: Tensor,
    gain: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
) -> Tensor:
    """W1A32: real input, 1-bit weights.

    Args:
        x: [N, C, H, W], floating point; its dtype is that of the product and of y.
        latent_weight: v, [out, C, kh, kw], floating point.
        gain: g, [out].
        bias: b, [out].
        stride: vertical and horizontal.
        padding: rows and columns of zeros on each side.

    Returns:
        y, [N, out, H', W'], channels-last where x is.
    """
    product = F.conv2d(x, sign(latent_weight, x.dtype), None, stride, padding)
    scale = _per_channel(weight_scale(gain, latent_weight).to(x.dtype))
    if bias is None:
        y = product * scale
    else:
        y = torch.addcmul(_per_channel(bias.to(x.dtype)), product, scale)
    return y.contiguous(memory_format=memory_format(x))


def binary_conv2d_backward(
    grad_y: Tensor,
    x: Tensor,
    latent_weight: Tensor,
    gain: Tensor,
    stride: list[int],
    padding: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `binary_conv2d` for x, latent_weight, gain and bias.

    With G the weight gradient of the unscaled convolution, dv = α·G and dα = Σ sign(v)·G, so the
    product needs no saving.
    """
    scale = weight_scale(gain, latent_weight).view(-1, 1, 1, 1)
    weight = sign(latent_weight, x.dtype)
    grad_x, grad_product, _ = torch.ops.aten.convolution_backward(
        grad_y, x, weight * scale.to(x.dtype), None, stride, padding, [1, 1], False, [0, 0], 1,
        [True, True, False],
    )  # fmt: skip
    grad_scale = (grad_product * weight).sum((1, 2, 3), dtype=gain.dtype)
    grad_latent = (grad_product * scale).to(latent_weight.dtype)
    return (
        grad_x.contiguous(memory_format=memory_format(x)),
        grad_latent.contiguous(memory_format=memory_format(latent_weight)),
        weight_scale(grad_scale, latent_weight),
        grad_y.sum((0, 2, 3), dtype=gain.dtype),
    )


def binary_conv2d_w1a1(
    x: Tensor,
    latent_weight: Tensor,
    gain: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """W1A1: the input is sign(x).

    Returns:
        y, [N, out, H', W'], and what the backward pass needs of x: the row bits along the channels
        of its signs and of the estimator's mask, int32 [N, H, W, ceil(C/32)] each.
    """
    negative, passes = x < 0, activation_mask(x)
    signs = plus_minus_one(negative, x.dtype)
    y = binary_conv2d(signs, latent_weight, gain, bias, stride, padding)
    return y, pack_bits(negative.permute(0, 2, 3, 1)), pack_bits(passes.permute(0, 2, 3, 1))


def binary_conv2d_w1a1_backward(
    grad_y: Tensor,
    signs: Tensor,
    mask: Tensor,
    latent_weight: Tensor,
    gain: Tensor,
    stride: list[int],
    padding: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `binary_conv2d_w1a1` for x (channels-last), latent_weight, gain and bias."""
    channels = latent_weight.shape[1]
    x = unpack_signs(signs, channels, grad_y.dtype).permute(0, 3, 1, 2)
    grad_x, grad_latent, grad_gain, grad_bias = binary_conv2d_backward(
        grad_y, x, latent_weight, gain, stride, padding
    )
    passes = unpack_bits(mask, channels).permute(0, 3, 1, 2)
    return keep(grad_x, passes), grad_latent, grad_gain, grad_bias


def memory_format(x: Tensor) -> torch.memory_format:
    """Channels-last where only that describes x, else contiguous."""
    if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format


def _per_channel(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1)
