"""Gated residual block whose convolutions are real or binary (Salimans et al., 2017)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tribin.nn.precision import Precision
from tribin.nn.residual import residual_conv2d
from tribin.nn.threshold_pair import ThresholdPair
from tribin.sharding import Dropout


class GatedBlock(nn.Module):
    """x + a·sigmoid(b), (a, b) = gate(f(conv(f(x)) + project(f(context)))) (Ho et al., 2019).

    x and the result are [N, width, H, W]; f(x) concatenates the activations of x and −x. With
    binary activations these are signs, which the binary convolutions take themselves.

    Args:
        width: channels.
        precision: of all convolutions; the skip is always real.
        context_channels: of the context [N, context_channels, H, W], 0 where there is none.
        gate_kernel_size: odd, of the convolution that makes a and b.
        dropout: share of f that is dropped before the gate, in training.
        threshold_pair: whether conv and gate take signs of x − t and −x − u, t and u learned.
    """

    def __init__(
        self,
        width: int,
        precision: Precision,
        *,
        context_channels: int = 0,
        gate_kernel_size: int = 1,
        dropout: float = 0.0,
        threshold_pair: bool = False,
    ) -> None:
        super().__init__()
        self.binary_activations = precision.activations == 1
        self.conv = residual_conv2d(2 * width, width, 3, precision, init_std=0.1)
        self.project = (
            residual_conv2d(2 * context_channels, width, 1, precision, init_std=1.0)
            if context_channels
            else None
        )
        self.dropout = Dropout(dropout)
        self.conv_thresholds, self.gate_thresholds = (
            ThresholdPair(width) if threshold_pair else None for _ in range(2)
        )
        self.gate = residual_conv2d(2 * width, 2 * width, gate_kernel_size, precision, init_std=0.1)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Apply the block."""
        hidden = self.conv(self._activate(x, self.conv_thresholds))
        if self.project is not None:
            if context is None:
                raise TypeError("this block projects a context, and was given none")
            hidden = hidden + self.project(self._activate(context))
        a, b = self.gate(self.dropout(self._activate(hidden, self.gate_thresholds))).chunk(2, dim=1)
        return x + a * b.sigmoid()

    def _activate(self, x: Tensor, thresholds: ThresholdPair | None = None) -> Tensor:
        both = torch.cat((x, -x), dim=1) if thresholds is None else thresholds(x)
        return both if self.binary_activations else F.elu(both)
