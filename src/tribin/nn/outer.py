"""The convolutions around residual layers: their input is real, their weights may be binary."""

from torch import Tensor, nn

from tribin.nn.binary import BinaryConv2d
from tribin.nn.normalized_layer import NormalizedLayer
from tribin.nn.precision import Precision
from tribin.nn.weight_norm import WeightNormConv2d, WeightNormConvTranspose2d


def outer_conv2d(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    precision: Precision,
    *,
    stride: int = 1,
    init_std: float = 1.0,
) -> NormalizedLayer:
    """A convolution that keeps height and width, or divides them by the stride.

    Args:
        in_channels: of the input.
        out_channels: of the result.
        kernel_size: odd.
        precision: whether weights outside the residual layers are binary.
        stride: vertical and horizontal.
        init_std: the standard deviation that data-dependent initialization gives to each channel.
    """
    kind = BinaryConv2d if precision.all_binary else WeightNormConv2d
    padding = kernel_size // 2
    return kind(
        in_channels, out_channels, kernel_size, stride=stride, padding=padding, init_std=init_std
    )


def outer_upsampling_conv2d(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    precision: Precision,
    *,
    init_std: float = 1.0,
) -> nn.Module:
    """A transposed convolution that doubles height and width; the arguments are as above.

    With binary weights it is a convolution of the input with zeros in between.
    """
    padding = kernel_size // 2
    if precision.all_binary:
        conv = BinaryConv2d(
            in_channels, out_channels, kernel_size, padding=padding, init_std=init_std
        )
        return nn.Sequential(ZerosBetween(), conv)
    return WeightNormConvTranspose2d(
        in_channels,
        out_channels,
        kernel_size,
        stride=2,
        padding=padding,
        output_padding=1,
        init_std=init_std,
    )


class ZerosBetween(nn.Module):
    """[N, C, H, W] to [N, C, 2·H, 2·W]: a zero after each pixel, and a row of them after each."""

    def forward(self, x: Tensor) -> Tensor:
        """Spread the pixels; the result is channels-last."""
        batch, channels, height, width = x.shape
        spread = x.new_zeros(batch, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)
        spread[:, :, ::2, ::2] = x
        return spread
