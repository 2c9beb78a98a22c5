"""Binary linear layer: y = (x · sign(v)ᵀ)·α + b with α = g/√K.

The scale comes after the product. The backward pass follows the straight-through estimators of
Bird et al. (2021): the gradient of sign(v) passes to v as it is, the gradient of sign(x) passes
to x where |x| ≤ 1.
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


def binary_linear(x: Tensor, latent_weight: Tensor, gain: Tensor, bias: Tensor | None) -> Tensor:
    """W1A32: real input, 1-bit weights.

    Args:
        x: [..., K], floating point; its dtype is that of the product and of y.
        latent_weight: v, [out, K], floating point.
        gain: g, [out].
        bias: b, [out].

    Returns:
        y, [..., out].
    """
    product = F.linear(x, sign(latent_weight, x.dtype))
    scale = weight_scale(gain, latent_weight).to(x.dtype)
    if bias is None:
        return product * scale
    return torch.addcmul(bias.to(x.dtype), product, scale)


def binary_linear_backward(
    grad_y: Tensor, x: Tensor, latent_weight: Tensor, gain: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `binary_linear` for x, latent_weight, gain and bias.

    With G = dYᵀ·X, dv = α·G and dα = Σ_k sign(v)·G, so the product needs no saving.
    """
    scale = weight_scale(gain, latent_weight).unsqueeze(1)
    weight = sign(latent_weight, x.dtype)
    rows = grad_y.reshape(-1, grad_y.shape[-1])
    grad_x = grad_y @ (weight * scale.to(x.dtype))
    grad_product = rows.T @ x.reshape(-1, x.shape[-1])
    grad_scale = (grad_product * weight).sum(1, dtype=gain.dtype)
    return (
        grad_x,
        (grad_product * scale).to(latent_weight.dtype),
        weight_scale(grad_scale, latent_weight),
        rows.sum(0, dtype=gain.dtype),
    )


def binary_linear_w1a1(
    x: Tensor, latent_weight: Tensor, gain: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """W1A1: the input is sign(x).

    Returns:
        y, [..., out], and what the backward pass needs of x: the row bits of its signs and of the
        estimator's mask, int32 [..., ceil(K/32)] each.
    """
    negative = x < 0
    y = binary_linear(plus_minus_one(negative, x.dtype), latent_weight, gain, bias)
    return y, pack_bits(negative), pack_bits(activation_mask(x))


def binary_linear_w1a1_backward(
    grad_y: Tensor, signs: Tensor, mask: Tensor, latent_weight: Tensor, gain: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `binary_linear_w1a1` for x, latent_weight, gain and bias."""
    length = latent_weight.shape[1]
    x = unpack_signs(signs, length, grad_y.dtype)
    grad_x, grad_latent, grad_gain, grad_bias = binary_linear_backward(
        grad_y, x, latent_weight, gain
    )
    return keep(grad_x, unpack_bits(mask, length)), grad_latent, grad_gain, grad_bias
