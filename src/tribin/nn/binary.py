"""1-bit layers by binary weight normalization, w = sign(v)·g/√n (Bird et al., 2021)."""

import torch
from torch import Tensor, nn

from tribin import ops
from tribin.nn.normalized_layer import WEIGHT_STD, NormalizedLayer


class BinaryLinear(NormalizedLayer):
    """Linear layer, [..., in] to [..., out], with 1-bit weights and, where asked, 1-bit input."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        binary_input: bool = False,
        init_std: float = 1.0,
    ) -> None:
        super().__init__(out_features, init_std)
        self.binary_input = binary_input
        self.latent_weight = nn.Parameter(WEIGHT_STD * torch.randn(out_features, in_features))

    def transform(self, x: Tensor, gain: Tensor, bias: Tensor | None) -> Tensor:
        return ops.binary_linear(x, self.latent_weight, gain, bias, binary_input=self.binary_input)


class BinaryConv2d(NormalizedLayer):
    """Convolution, [N, in, H, W] to [N, out, H', W'], with 1-bit weights and, where asked, input.

    Padding is the value 0, with binary input too.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        binary_input: bool = False,
        init_std: float = 1.0,
    ) -> None:
        super().__init__(out_channels, init_std)
        self.stride, self.padding = stride, padding
        self.binary_input = binary_input
        self.latent_weight = nn.Parameter(
            WEIGHT_STD * torch.randn(out_channels, in_channels, kernel_size, kernel_size)
        )

    def transform(self, x: Tensor, gain: Tensor, bias: Tensor | None) -> Tensor:
        return ops.binary_conv2d(
            x,
            self.latent_weight,
            gain,
            bias,
            stride=self.stride,
            padding=self.padding,
            binary_input=self.binary_input,
        )


def latent_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The latent weights of all binary layers of the model, by their parameter names."""
    return {
        f"{name}.latent_weight" if name else "latent_weight": layer.latent_weight
        for name, layer in model.named_modules()
        if isinstance(layer, BinaryLinear | BinaryConv2d)
    }


@torch.no_grad()
def clip_latent_weights(model: nn.Module) -> None:
    """Clip every latent weight to [−1, 1], as Bird et al. (2021) do after each update."""
    for latent_weight in latent_weights(model).values():
        latent_weight.clamp_(-1, 1)
