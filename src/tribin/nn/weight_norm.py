"""Layers with ordinary weight normalization, w = v·g/‖v‖ (Salimans and Kingma, 2016)."""

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.nn import functional as F

from tribin.nn.normalized_layer import WEIGHT_STD, NormalizedLayer


class WeightNormLinear(NormalizedLayer):
    """Linear layer, [..., in] to [..., out], with weight normalization."""

    def __init__(self, in_features: int, out_features: int, *, init_std: float = 1.0) -> None:
        super().__init__(out_features, init_std)
        self.direction = nn.Parameter(WEIGHT_STD * torch.randn(out_features, in_features))

    def transform(self, x: Tensor, gain: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, self.normalized_weight(gain), bias)

    def normalized_weight(self, gain: Tensor) -> Tensor:
        """The weight that the layer multiplies with, [out, in]."""
        norm = self.direction.square().sum(1).sqrt()
        return self.direction * rearrange(gain / norm, "o -> o 1")


class WeightNormConv2d(NormalizedLayer):
    """Convolution, [N, in, H, W] to [N, out, H', W'], with weight normalization."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        init_std: float = 1.0,
    ) -> None:
        super().__init__(out_channels, init_std)
        self.stride, self.padding = stride, padding
        self.direction = nn.Parameter(
            WEIGHT_STD * torch.randn(out_channels, in_channels, kernel_size, kernel_size)
        )

    def transform(self, x: Tensor, gain: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, self.normalized_weight(gain), bias, self.stride, self.padding)

    def normalized_weight(self, gain: Tensor) -> Tensor:
        """The weight that the layer multiplies with, [out, in, kh, kw]."""
        norm = reduce(self.direction.square(), "o i h w -> o", "sum").sqrt()
        return self.direction * rearrange(gain / norm, "o -> o 1 1 1")


class WeightNormConvTranspose2d(NormalizedLayer):
    """Transposed convolution, [N, in, H, W] to [N, out, H', W'], with weight normalization."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        output_padding: int = 0,
        init_std: float = 1.0,
    ) -> None:
        super().__init__(out_channels, init_std)
        self.stride, self.padding, self.output_padding = stride, padding, output_padding
        self.direction = nn.Parameter(
            WEIGHT_STD * torch.randn(in_channels, out_channels, kernel_size, kernel_size)
        )

    def transform(self, x: Tensor, gain: Tensor, bias: Tensor | None) -> Tensor:
        weight = self.normalized_weight(gain)
        return F.conv_transpose2d(x, weight, bias, self.stride, self.padding, self.output_padding)

    def normalized_weight(self, gain: Tensor) -> Tensor:
        """The weight that the layer multiplies with, [in, out, kh, kw]."""
        norm = reduce(self.direction.square(), "i o h w -> o", "sum").sqrt()
        return self.direction * rearrange(gain / norm, "o -> 1 o 1 1")
