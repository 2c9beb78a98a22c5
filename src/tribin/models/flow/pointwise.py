"""Invertible linear map of the channels of each pixel (Kingma and Dhariwal, 2018)."""

import torch
from einops import einsum, repeat
from torch import Tensor, nn

from tribin.models.flow.base import Flow

INIT_NOISE = 0.001
"""Standard deviation of what is added to the identity at the start of training."""


class Pointwise(Flow):
    """Both halves of [N, 2, C, H, W], each by a C x C matrix of its own.

    The log-determinant is computed in float64, once for all pixels; a singular matrix gives −inf.

    Args:
        channels: C, of each half.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        noise = INIT_NOISE * torch.randn(2, channels, channels)
        self.weight = nn.Parameter(torch.eye(channels) + noise)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Multiply every pixel by the matrix of its half."""
        return _multiply(self.weight.to(x.dtype), x), self._log_det(x)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Multiply by the inverse matrix, itself computed in float64."""
        weight = torch.linalg.inv(self.weight.double()).to(y.dtype)
        return _multiply(weight, y), -self._log_det(y)

    def _log_det(self, x: Tensor) -> Tensor:
        log_det = torch.linalg.slogdet(self.weight.double()).logabsdet.sum()
        pixels = x.shape[-2] * x.shape[-1]
        return repeat((pixels * log_det).to(x.dtype), "-> n", n=len(x))


def _multiply(weight: Tensor, x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return einsum(weight, x, "half out c, n half c h w -> n half out h w")
