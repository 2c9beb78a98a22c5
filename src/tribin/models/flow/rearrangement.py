"""Flows that only move elements: their log-determinant is 0."""

from typing import ClassVar

from einops import rearrange
from torch import Tensor

from tribin.models.flow.base import Flow


class Rearrangement(Flow):
    """A flow that an einops pattern describes; its inverse is the pattern read backwards."""

    pattern: ClassVar[str]
    sizes: ClassVar[dict[str, int]]

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Move the elements as the pattern says."""
        return rearrange(x, self.pattern, **self.sizes), x.new_zeros(len(x))

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Move them back."""
        left, right = self.pattern.split("->")
        return rearrange(y, f"{right} -> {left}", **self.sizes), y.new_zeros(len(y))


class StripeSplit(Rearrangement):
    """The even and the odd columns of an image: [N, C, H, W] to [N, 2, C, H, W/2]."""

    pattern = "n c h (w half) -> n half c h w"
    sizes: ClassVar = {"half": 2}


class ChannelSplit(Rearrangement):
    """The first and the second half of the channels: [N, C, H, W] to [N, 2, C/2, H, W]."""

    pattern = "n (half c) h w -> n half c h w"
    sizes: ClassVar = {"half": 2}


class SpaceToDepth(Rearrangement):
    """Each 2x2 block of pixels to channels: [N, C, H, W] to [N, 4·C, H/2, W/2]."""

    pattern = "n c (h row) (w column) -> n (row column c) h w"
    sizes: ClassVar = {"row": 2, "column": 2}


class Flip(Flow):
    """Swap the halves of [N, 2, C, H, W]."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Swap them."""
        return x.flip(1), x.new_zeros(len(x))

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Swap them back."""
        return self.forward(y)
