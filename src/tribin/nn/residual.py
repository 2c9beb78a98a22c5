"""Residual block whose convolutions are real or binary."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tribin.nn.binary import BinaryConv2d
from tribin.nn.normalized_layer import NormalizedLayer
from tribin.nn.precision import Precision
from tribin.nn.weight_norm import WeightNormConv2d

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

    def __init__(self, width: int, kernel_size: int, precision: Precision, activation: str) -> None:
        super().__init__()
        self.first = residual_conv2d(width, width, kernel_size, precision, init_std=1.0)
        self.second = residual_conv2d(width, width, kernel_size, precision, init_std=0.0)
        self.binary_activations = precision.activations == 1
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return x + self.second(self._activate(self.first(self._activate(x))))

    def _activate(self, x: Tensor) -> Tensor:
        return x if self.binary_activations else ACTIVATIONS[self.activation](x)


def residual_conv2d(
    in_channels: int, out_channels: int, kernel_size: int, precision: Precision, *, init_std: float
) -> NormalizedLayer:
    """A convolution of a residual layer, which keeps height and width.

    Args:
        in_channels: of the input.
        out_channels: of the result.
        kernel_size: odd.
        precision: real or binary weights, real or binary input.
        init_std: the standard deviation that data-dependent initialization gives to each channel.
    """
    padding = kernel_size // 2
    if precision.weights == 32:
        return WeightNormConv2d(
            in_channels, out_channels, kernel_size, padding=padding, init_std=init_std
        )
    return BinaryConv2d(
        in_channels,
        out_channels,
        kernel_size,
        padding=padding,
        binary_input=precision.activations == 1,
        init_std=init_std,
    )
