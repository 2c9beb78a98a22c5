"""Normalization by a learned gain and bias (actnorm of Kingma and Dhariwal, 2018, per element)."""

import torch
from einops import repeat
from torch import Tensor, nn

from tribin.models.flow.base import Flow
from tribin.nn import InitializedFromData, standardization


class Norm(Flow, InitializedFromData):
    """y = x·gain + bias, with a gain and a bias of its own for every element of x.

    The gain is positive: its logarithm is what is learned. Both act on the data themselves, whose
    levels are closer than what bfloat16 tells apart.

    Args:
        shape: of x without the batch dimension.
    """

    full_precision = True

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.log_gain = nn.Parameter(torch.zeros(shape))
        self.bias = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Normalize."""
        return x * self.log_gain.to(x.dtype).exp() + self.bias, self._log_det(x)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Undo it."""
        return (y - self.bias) / self.log_gain.to(y.dtype).exp(), -self._log_det(y)

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Give every element mean 0 and standard deviation 1 over the batch x."""
        gain, bias = standardization(x, dim=0)
        self.log_gain.copy_(gain.log())
        self.bias.copy_(bias)

    def _log_det(self, x: Tensor) -> Tensor:
        return repeat(self.log_gain.sum(dtype=x.dtype), "-> n", n=len(x))
