"""Two thresholds a channel, between which two signs tell three levels apart."""

import torch
from einops import rearrange
from torch import Tensor, nn

from tribin.nn.initialization import InitializedFromData

START = 0.55
"""In standard deviations: of a Gaussian, the signs then keep 81 % of the variance, not 64 %."""


class ThresholdPair(InitializedFromData):
    """(x − t, −x − u), [N, C, H, W] to [N, 2·C, H, W], whose signs a binary layer takes.

    t and u are learned, and start at 0.55 standard deviations of each channel (BinaryDuo, Kim et
    al., 2020). With both 0 the signs are those of x and −x, which say the same.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.zeros(2 * channels))

    def initialize(self, x: Tensor) -> None:
        """Set the thresholds by the standard deviations of x."""
        std = x.float().std((0, 2, 3))
        self.threshold.copy_(START * torch.cat((std, std)))

    def forward(self, x: Tensor) -> Tensor:
        """Apply both thresholds."""
        threshold = rearrange(self.threshold.to(x.dtype), "c -> c 1 1")
        return torch.cat((x, -x), dim=1) - threshold
