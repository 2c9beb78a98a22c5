"""Sign, the window of the straight-through estimator, and the scale of binary weight norm."""

import math

import torch
from torch import Tensor


def sign(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """−1 where x < 0, else +1 (so zeros, of either sign, and NaN give +1).

    Args:
        x: any shape, real.
        dtype: of the result; that of x by default.
    """
    return plus_minus_one(x < 0, dtype or x.dtype)


def plus_minus_one(negative: Tensor, dtype: torch.dtype) -> Tensor:
    """−1 of `dtype` where `negative` (bool) is set, else +1."""
    return (1 - 2 * negative.view(torch.int8)).to(dtype)


def keep(x: Tensor, where: Tensor) -> Tensor:
    """x where `where` (bool) is set, else 0."""
    # torch multiplies by bool several times as slowly.
    return x * where.view(torch.int8).to(x.dtype)


def activation_mask(x: Tensor) -> Tensor:
    """Where the straight-through estimator of an activation passes the gradient: |x| ≤ 1.

    Returns:
        bool, the shape of x; False where x is NaN.
    """
    return x.abs() <= 1


def weight_scale(gain: Tensor, latent_weight: Tensor) -> Tensor:
    """The scale α = g/√n of binary weight normalization (Bird et al., 2021).

    A sign vector of n elements has the norm √n exactly, so weight normalization needs no norm.

    Args:
        gain: [out].
        latent_weight: [out, ...]; n is the number of elements per output.
    """
    return gain / math.sqrt(latent_weight.shape[1:].numel())
