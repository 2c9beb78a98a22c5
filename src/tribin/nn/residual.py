"""Residual block whose convolutions are real or binary."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tribin.nn.binary import BinaryConv2d
from tribin.nn.normalized_layer import NormalizedLayer
from tribin.nn.other_norms import BatchNormBinaryConv2d, WeightNormBinaryConv2d
from tribin.nn.precision import Normalization, Precision
from tribin.nn.weight_norm import WeightNormConv2d
from tribin.nn.wiring import Threshold, Wiring, after

PLAIN = Wiring()

NORMALIZATIONS: dict[Normalization, type[BinaryConv2d]] = {
    "binary_weight_norm": BinaryConv2d,
    "weight_norm": WeightNormBinaryConv2d,
    "batch_norm": BatchNormBinaryConv2d,
}

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"elu": F.elu, "tanh": torch.tanh}


class ResidualBlock(nn.Module):
    """x + conv(a(conv(a(x)))), [N, width, H, W] to the same shape (Bird et al., 2021).

    Data-dependent initialization makes the block the identity. With binary activations a is the
    sign, which the binary convolutions take themselves.

    Args:
        width: channels.
        kernel_size: odd, of both convolutions.
        precision: of the two convolutions; the skip is always real.
        activation: ``"elu"`` or ``"tanh"``, for real activations.
    """

    def __init__(
        self,
        width: int,
        kernel_size: int,
        precision: Precision,
        activation: str,
        wiring: Wiring = PLAIN,
    ) -> None:
        super().__init__()
        dynamic = wiring.dynamic_scale
        self.first = residual_conv2d(
            width, width, kernel_size, precision, init_std=wiring.first_std, dynamic_scale=dynamic
        )
        self.second = residual_conv2d(
            width, width, kernel_size, precision, init_std=0.0, dynamic_scale=dynamic
        )
        self.wiring = wiring
        if wiring.threshold != "none" and precision.activations == 1:
            self.thresholds = nn.ModuleList(
                Threshold(width, wiring.threshold_start) for _ in range(2)
            )
        else:
            self.thresholds = nn.ModuleList(nn.Identity() for _ in range(2))
        self.after = nn.ModuleList(after(width, wiring) for _ in range(2))
        self.binary_activations = precision.activations == 1
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        hidden = self.first(self._activate(self.thresholds[0](x)))
        if self.wiring.shortcut == "conv":
            hidden = self._join(x, hidden, self.after[0])
        else:
            x, hidden = x, self.after[0](hidden)
            y = self.second(self._activate(self.thresholds[1](hidden)))
            return self._join(x, y, self.after[1])
        y = self.second(self._activate(self.thresholds[1](hidden)))
        return self._join(hidden, y, self.after[1])

    def _join(self, x: Tensor, y: Tensor, after: nn.Module) -> Tensor:
        return after(x + y) if self.wiring.after == "outside" else x + after(y)

    def _activate(self, x: Tensor) -> Tensor:
        return x if self.binary_activations else ACTIVATIONS[self.activation](x)


def residual_conv2d(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    precision: Precision,
    *,
    init_std: float,
    dynamic_scale: bool = False,
) -> NormalizedLayer:
    """A convolution of a residual layer, which keeps height and width.

    Args:
        in_channels: of the input.
        out_channels: of the result.
        kernel_size: odd.
        precision: real or binary weights and how these are normalized, real or binary input.
        init_std: the standard deviation that data-dependent initialization gives to each channel.
    """
    padding = kernel_size // 2
    if precision.weights == 32:
        return WeightNormConv2d(
            in_channels, out_channels, kernel_size, padding=padding, init_std=init_std
        )
    return NORMALIZATIONS[precision.normalization](
        in_channels,
        out_channels,
        kernel_size,
        padding=padding,
        binary_input=precision.activations == 1,
        init_std=init_std,
        dynamic_scale=dynamic_scale and precision.activations == 1,
    )
