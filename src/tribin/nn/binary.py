"""1-bit layers by binary weight normalization, w = sign(v)·g/√n (Bird et al., 2021)."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from tribin import ops
from tribin.errors import InputError
from tribin.nn.normalized_layer import WEIGHT_STD, NormalizedLayer


class BinaryLinear(NormalizedLayer):
    """Linear layer, [..., in] to [..., out], with 1-bit weights and, where asked, 1-bit input."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        binary_input: bool = False,
        init_std: float = 1.0,
    ) -> None:
        super().__init__(out_features, init_std, bias=bias)
        self.binary_input = binary_input
        self.latent_weight = nn.Parameter(_initial_weight(out_features, in_features))

    def transform(self, x: Tensor, gain: Tensor, bias: Tensor | None) -> Tensor:
        return ops.binary_linear(x, self.latent_weight, gain, bias, binary_input=self.binary_input)

    def extra_repr(self) -> str:
        """What printing the layer shows."""
        outputs, inputs = self.latent_weight.shape
        return (
            f"{inputs}, {outputs}, bias={self.bias is not None}, binary_input={self.binary_input}"
        )


class BinaryConv2d(NormalizedLayer):
    """Convolution, [N, in, H, W] to [N, out, H', W'], with 1-bit weights and, where asked, input.

    Kernel size, stride and padding are vertical and horizontal, or one number for both. Padding is
    the value 0, with binary input too.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        bias: bool = True,
        binary_input: bool = False,
        init_std: float = 1.0,
    ) -> None:
        super().__init__(out_channels, init_std, bias=bias)
        self.stride, self.padding = stride, padding
        self.binary_input = binary_input
        kernel = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        self.latent_weight = nn.Parameter(_initial_weight(out_channels, in_channels, *kernel))

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

    def extra_repr(self) -> str:
        """What printing the layer shows."""
        outputs, inputs, *kernel = self.latent_weight.shape
        return (
            f"{inputs}, {outputs}, kernel_size={tuple(kernel)}, stride={self.stride}, "
            f"padding={self.padding}, bias={self.bias is not None}, "
            f"binary_input={self.binary_input}"
        )


_without_latent_weights = ContextVar("_without_latent_weights", default=False)


@contextmanager
def without_latent_weights() -> Iterator[None]:
    """Latent weights of the layers that are made inside are zeros which take no memory."""
    token = _without_latent_weights.set(True)
    try:
        yield
    finally:
        _without_latent_weights.reset(token)


def _initial_weight(*size: int) -> Tensor:
    if _without_latent_weights.get():
        return torch.zeros(()).expand(size)
    return WEIGHT_STD * torch.randn(size)


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


def clip_after_step(optimizer: Optimizer, model: nn.Module) -> RemovableHandle:
    """Have `clip_latent_weights(model)` run after every step of the optimizer.

    A step that a gradient scaler skips leaves the latent weights as they were, in [−1, 1].

    Returns:
        A handle whose `remove` ends it.

    Raises:
        InputError: where the optimizer was made before the layers became binary, so that it would
            train none of their latent weights.
    """
    trained = {id(value) for group in optimizer.param_groups for value in group["params"]}
    if not any(id(value) in trained for value in latent_weights(model).values()):
        raise InputError(
            "clip_after_step: the optimizer holds no latent weight of the model; "
            "make it from model.parameters() after the layers are binary"
        )
    return optimizer.register_step_post_hook(lambda *_: clip_latent_weights(model))
