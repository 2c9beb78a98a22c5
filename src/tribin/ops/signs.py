"""sign(x) with the straight-through estimators of Bird et al. (2021)."""

from typing import Any

import torch
from torch import Tensor

from tribin_kernels import reference


def sign_weight(latent_weight: Tensor) -> Tensor:
    """±1, with the gradient of the result passed to the latent weight as it is.

    Args:
        latent_weight: any shape, floating point.
    """
    signs: Tensor = _SignWeight.apply(latent_weight)
    return signs


def sign_activation(x: Tensor) -> Tensor:
    """±1, with the gradient of the result passed to x where |x| ≤ 1 and stopped elsewhere.

    Args:
        x: any shape, floating point.
    """
    signs: Tensor = _SignActivation.apply(x)
    return signs


class _SignWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latent_weight: Tensor) -> Tensor:
        return reference.sign(latent_weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class _SignActivation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(reference.activation_mask(x))
        return reference.sign(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (mask,) = ctx.saved_tensors
        return grads[0] * mask
