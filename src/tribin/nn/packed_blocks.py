"""The packed twins of the residual blocks, which pass bits from layer to layer where they can."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tribin.nn.packed import PackedConv2d
from tribin.nn.threshold_pair import ThresholdPair


class PackedResidualBlock(nn.Module):
    """x + second(a(first(a(x)))), [N, width, H, W] to the same shape (Bird et al., 2021).

    With binary activations, bits are all that passes from the first convolution to the second,
    unless a shortcut goes around each of them.

    Args:
        first: the first convolution, with the slopes of its PReLU.
        second: the second one.
        activation: a, where activations are real.
        shortcut: ``"block"`` or ``"conv"``: what a skip goes around.
    """

    def __init__(
        self,
        first: PackedConv2d,
        second: PackedConv2d,
        activation: Callable[[Tensor], Tensor],
        shortcut: str = "block",
    ) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.activation = activation
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        if self.shortcut == "conv":
            x = hidden = self.first(self._activate(x), residual=x)
            hidden = self._activate(hidden)
        elif self.second.binary_input:
            hidden = self.first(x, to_bits=True)
        elif self.activation is F.elu:
            hidden = self.first(F.elu(x), elu=True)
        else:
            hidden = self.activation(self.first(self.activation(x)))
        y: Tensor = self.second(hidden, residual=x)
        return y

    def _activate(self, x: Tensor) -> Tensor:
        return x if self.second.binary_input else self.activation(x)


class PackedGatedBlock(nn.Module):
    """x + a·sigmoid(b), the map of `GatedBlock` in inference (Ho et al., 2019).

    x and the result are [N, width, H, W].

    Args:
        conv: the first convolution.
        project: of the context, or None.
        gate: the convolution that makes a and b.
        conv_thresholds, gate_thresholds: of the signs that these take, or None.
    """

    def __init__(
        self,
        conv: PackedConv2d,
        project: PackedConv2d | None,
        gate: PackedConv2d,
        conv_thresholds: ThresholdPair | None = None,
        gate_thresholds: ThresholdPair | None = None,
    ) -> None:
        super().__init__()
        self.conv_thresholds, self.gate_thresholds = conv_thresholds, gate_thresholds
        self.conv, self.project, self.gate = conv, project, gate

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Apply the block."""
        hidden = self.conv(self._activate(x, self.conv_thresholds))
        if self.project is not None:
            if context is None:
                raise TypeError("this block projects a context, and was given none")
            hidden = self.project(self._activate(context), residual=hidden)
        activated = self._activate(hidden, self.gate_thresholds)
        y: Tensor = self.gate(activated, gate=True, residual=x)
        return y

    def _activate(self, x: Tensor, thresholds: ThresholdPair | None = None) -> Tensor:
        both = torch.cat((x, -x), dim=1) if thresholds is None else thresholds(x)
        return both if self.conv.binary_input else F.elu(both)
