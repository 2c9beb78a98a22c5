"""The sigmoid, and the map from pixels to the whole real line."""

import math

import torch
import torch.nn.functional as F
from einops import reduce
from torch import Tensor

from tribin.models.flow.base import Flow

MARGIN = 0.05
"""How far pixels are kept from 0 and 1 before the logit is taken (Dinh et al., 2017)."""


class Sigmoid(Flow):
    """y = 1/(1 + exp(−x)), of images [N, C, H, W]."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """From the real line to (0, 1)."""
        return x.sigmoid(), _log_slopes(x)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """From (0, 1) to the real line."""
        x = torch.logit(y)
        return x, -_log_slopes(x)


class PixelLogit(Flow):
    """y = logit(0.05 + 0.9·x/levels), of dequantized pixels x in [0, levels], [N, C, H, W].

    Args:
        levels: number of pixel values.
    """

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.scale = (1 - 2 * MARGIN) / levels

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """From pixels to the real line."""
        y = torch.logit(MARGIN + self.scale * x)
        return y, self._log_scale(x) - _log_slopes(y)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """From the real line to pixels, which lie outside [0, levels] for large y."""
        return (y.sigmoid() - MARGIN) / self.scale, _log_slopes(y) - self._log_scale(y)

    def _log_scale(self, x: Tensor) -> float:
        return math.log(self.scale) * x[0].numel()


def _log_slopes(x: Tensor) -> Tensor:
    """The sum of the logarithms of the sigmoid's derivatives at x, [N]."""
    return reduce(F.logsigmoid(x) + F.logsigmoid(-x), "n c h w -> n", "sum")
