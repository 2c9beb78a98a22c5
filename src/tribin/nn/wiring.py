"""How the convolutions of a residual block are wired: skips, thresholds and activations."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from tribin.nn.initialization import InitializedFromData


@dataclass(frozen=True)
class Wiring:
    """What a residual block has beyond the paper's; the defaults are the paper's block."""

    shortcut: Literal["block", "conv"] = field(
        default="block", metadata={"description": "what a skip goes around"}
    )
    threshold: Literal["none", "learned"] = field(
        default="none", metadata={"description": "per channel, of the signs"}
    )
    threshold_start: float = field(default=0.0, metadata={"description": "in standard deviations"})
    after: Literal["none", "inside", "outside", "prelu"] = field(
        default="none", metadata={"description": "RPReLU after each convolution"}
    )
    slope: float = field(default=0.25, metadata={"description": "of RPReLU at first"})
    dynamic_scale: bool = field(default=False, metadata={"description": "K"})
    first_std: float = field(default=1.0, metadata={"description": "init of the first conv"})


def after(width: int, wiring: Wiring) -> nn.Module:
    """What follows a convolution."""
    if wiring.after == "none":
        return nn.Identity()
    if wiring.after == "prelu":
        return nn.PReLU(width, wiring.slope)
    return RPReLU(width, wiring.slope)


class Threshold(InitializedFromData):
    """x − t, t learned per channel (RSign)."""

    def __init__(self, channels: int, start: float) -> None:
        super().__init__()
        self.start = start
        self.threshold = nn.Parameter(torch.zeros(channels))

    def initialize(self, x: Tensor) -> None:
        if self.start:
            self.threshold.copy_(self.start * x.float().std((0, 2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return x - self.threshold[:, None, None].to(x.dtype)


class RPReLU(nn.Module):
    """x − γ + ζ where x > γ, else β(x − γ) + ζ, per channel (ReActNet)."""

    def __init__(self, channels: int, slope: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.full((channels,), slope))
        self.move_in = nn.Parameter(torch.zeros(channels))
        self.move_out = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        slope, move_in, move_out = (
            p[:, None, None].to(x.dtype) for p in (self.slope, self.move_in, self.move_out)
        )
        shifted = x - move_in
        return torch.where(shifted > 0, shifted, slope * shifted) + move_out


class ThresholdPair(InitializedFromData):
    """(x − t, −x − u), t and u learned per channel: three levels from two signs (BinaryDuo)."""

    def __init__(self, channels: int, start: float) -> None:
        super().__init__()
        self.start = start
        self.threshold = nn.Parameter(torch.zeros(2 * channels))

    def initialize(self, x: Tensor) -> None:
        if self.start:
            self.threshold.copy_(self.start * x.float().std((0, 2, 3)).repeat(2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, -x), dim=1) - self.threshold[:, None, None].to(x.dtype)
