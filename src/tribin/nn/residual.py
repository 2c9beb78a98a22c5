"""Residual block whose convolutions are real or binary."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tribin.nn.binary import BinaryConv2d
from tribin.nn.normalized_layer import NormalizedLayer
from tribin.nn.other_norms import BatchNormBinaryConv2d, WeightNormBinaryConv2d
from tribin.nn.precision import Normalization, Precision
from tribin.nn.weight_norm import WeightNormConv2d

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"elu": F.elu, "tanh": torch.tanh}

Shortcut = Literal["block", "conv"]

NORMALIZATIONS: dict[Normalization, type[BinaryConv2d]] = {
    "binary_weight_norm": BinaryConv2d,
    "weight_norm": WeightNormBinaryConv2d,
    "batch_norm": BatchNormBinaryConv2d,
}


class ResidualBlock(nn.Module):
    """x + conv(a(conv(a(x)))), [N, width, H, W] to the same shape (Bird et al., 2021).

    With a shortcut around each convolution, h + p(conv(a(h))) with h = x + p(conv(a(x))) (Liu et
    al., 2018), where p is a PReLU, if there is one, or nothing. Data-dependent initialization makes
    the block the identity, or, with the shortcuts, its second half. With binary activations a is
    the sign, which the binary convolutions take themselves.

    Args:
        width: channels.
        kernel_size: odd, of both convolutions.
        precision: of the two convolutions; skips are always real.
        activation: ``"elu"`` or ``"tanh"``, for real activations.
        shortcut: what a skip goes around, the block or each convolution.
        prelu: whether a PReLU with learned slopes follows each convolution.
    """

    def __init__(
        self,
        width: int,
        kernel_size: int,
        precision: Precision,
        activation: str,
        *,
        shortcut: Shortcut = "block",
        prelu: bool = False,
    ) -> None:
        super().__init__()
        self.first = residual_conv2d(width, width, kernel_size, precision, init_std=1.0)
        self.second = residual_conv2d(width, width, kernel_size, precision, init_std=0.0)
        self.first_prelu, self.second_prelu = (nn.PReLU(width) if prelu else None for _ in range(2))
        self.binary_activations = precision.activations == 1
        self.activation = activation
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        hidden = _after(self.first_prelu, self.first(self._activate(x)))
        if self.shortcut == "conv":
            x = hidden = x + hidden
        return x + _after(self.second_prelu, self.second(self._activate(hidden)))

    def _activate(self, x: Tensor) -> Tensor:
        return x if self.binary_activations else ACTIVATIONS[self.activation](x)


def _after(prelu: nn.PReLU | None, x: Tensor) -> Tensor:
    return x if prelu is None else prelu(x)


def residual_conv2d(
    in_channels: int, out_channels: int, kernel_size: int, precision: Precision, *, init_std: float
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
    )
