"""What the tests of the differentiable ops share: surrogates and finite differences."""

from collections.abc import Callable

import torch
from torch import Tensor


def surrogate_weight(latent_weight: Tensor, at: Tensor) -> Tensor:
    """The function whose derivative the weights' estimator takes, expanded around `at`."""
    return torch.where(at < 0, -1.0, 1.0).to(at.dtype) + (latent_weight - at)


def surrogate_activation(x: Tensor, at: Tensor) -> Tensor:
    """The function whose derivative the activations' estimator takes, expanded around `at`."""
    return torch.where(at < 0, -1.0, 1.0).to(at.dtype) + (x.clamp(-1, 1) - at.clamp(-1, 1))


def finite_differences(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Central differences of a scalar function at each element of a float64 tensor."""
    step = 1e-6
    gradient = torch.empty_like(at)
    for index in range(at.numel()):
        offset = torch.zeros_like(at)
        offset.view(-1)[index] = step
        difference = function(at + offset) - function(at - offset)
        gradient.view(-1)[index] = difference / (2 * step)
    return gradient


def away_from_window_borders(x: Tensor) -> Tensor:
    """x with the elements moved that lie so close to ±1 that a difference would straddle it."""
    return torch.where((x.abs() - 1).abs() < 1e-3, x * 1.01, x)
