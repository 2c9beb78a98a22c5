"""Layers that hold bits: the packed twins of the binary layers, for inference alone."""

from collections.abc import Callable
from typing import Any, Self

from torch import Tensor, nn

from tribin import ops


class PackedLinear(nn.Module):
    """Linear layer, [..., in] to [..., out], whose weights are row bits.

    Args:
        weight_bits: int32 [out, ceil(K/32)].
        scale: [out], g/√K.
        bias: [out], or None.
        in_features: K.
        binary_input: whether the layer takes the signs of its input.
    """

    weight_bits: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(
        self,
        weight_bits: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        *,
        in_features: int,
        binary_input: bool = False,
    ) -> None:
        super().__init__()
        _register(self, weight_bits, scale, bias)
        self.in_features = in_features
        self.binary_input = binary_input

    def forward(self, x: Tensor, **epilogue: Any) -> Tensor:
        """Apply the layer; input, result and the keywords are those of `ops.packed_linear`."""
        return ops.packed_linear(
            x,
            self.weight_bits,
            self.scale,
            self.bias,
            in_features=self.in_features,
            binary_input=self.binary_input,
            **epilogue,
        )

    def extra_repr(self) -> str:
        """What printing the layer shows."""
        return (
            f"{self.in_features}, {len(self.scale)}, bias={self.bias is not None}, "
            f"binary_input={self.binary_input}"
        )


class PackedConv2d(nn.Module):
    """Convolution, [N, in, H, W] to [N, out, H', W'], whose weights are row bits.

    Args:
        weight_bits: row bits along the channels of each tap, int32 [out, kh, kw, ceil(C/32)].
        scale: [out], g/√n.
        bias: [out], or None.
        in_channels: C.
        stride: vertical and horizontal, or one number for both, as is the next.
        padding: zeros on each side.
        binary_input: whether the layer takes the signs of its input.
        slope: [out], of a PReLU that follows, or None.
    """

    weight_bits: Tensor
    scale: Tensor
    bias: Tensor | None
    slope: Tensor | None

    def __init__(
        self,
        weight_bits: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        *,
        in_channels: int,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        binary_input: bool = False,
        slope: Tensor | None = None,
    ) -> None:
        super().__init__()
        _register(self, weight_bits, scale, bias)
        self.register_buffer("slope", slope)
        self.in_channels = in_channels
        self.stride, self.padding = _pair(stride), _pair(padding)
        self.binary_input = binary_input

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        # The memory format that a model is moved to is not meant for bits.
        self.weight_bits = self.weight_bits.contiguous()
        return self

    def forward(self, x: Tensor, **epilogue: Any) -> Tensor:
        """Apply the layer; input, result and the keywords are those of `ops.packed_conv2d`."""
        return ops.packed_conv2d(
            x,
            self.weight_bits,
            self.scale,
            self.bias,
            channels=self.in_channels,
            stride=self.stride,
            padding=self.padding,
            binary_input=self.binary_input,
            slope=self.slope,
            **epilogue,
        )

    def extra_repr(self) -> str:
        """What printing the layer shows."""
        outputs, *kernel, _ = self.weight_bits.shape
        return (
            f"{self.in_channels}, {outputs}, kernel_size={tuple(kernel)}, stride={self.stride}, "
            f"padding={self.padding}, bias={self.bias is not None}, "
            f"binary_input={self.binary_input}"
        )


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _register(layer: nn.Module, weight_bits: Tensor, scale: Tensor, bias: Tensor | None) -> None:
    layer.register_buffer("weight_bits", weight_bits)
    layer.register_buffer("scale", scale)
    layer.register_buffer("bias", bias)
