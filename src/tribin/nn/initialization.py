"""Data-dependent initialization of a whole model (Salimans and Kingma, 2016)."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

# What varies less than this, relative to its mean, is constant up to rounding.
_CONSTANT = 1e-5


class InitializedFromData(nn.Module, ABC):
    """A module that sets some of its parameters by the input that it is first given."""

    @abstractmethod
    def initialize(self, x: Tensor) -> None:
        """Set the parameters by the input x."""


def standardization(y: Tensor, dim: int, std: float = 1.0) -> tuple[Tensor, Tensor]:
    """The gain and bias that give y, along `dim`, mean 0 and standard deviation `std`.

    Where y is constant the gain is `std`.

    Returns:
        float64, the shape of y without `dim`.
    """
    y_std, mean = torch.std_mean(y.double(), dim=dim, correction=0)
    varies = y_std > _CONSTANT * mean.abs()
    gain = std / torch.where(varies, y_std, 1)
    return gain, -mean * gain


@torch.no_grad()
def initialize_from_data(model: nn.Module, *inputs: Any) -> None:
    """Run the model once on `inputs`, initializing each layer on what it is given.

    The layers that run first are initialized first, so that afterwards the same pass gives each
    normalized layer's output channels mean 0 and the layer's `init_std` exactly. It runs in the
    dtype of the parameters, whatever the autocast around it.
    """
    hooks = [
        layer.register_forward_pre_hook(_InitializeOnce())
        for layer in model.modules()
        if isinstance(layer, InitializedFromData)
    ]
    device = next(model.parameters()).device.type
    try:
        with torch.autocast(device, enabled=False):
            model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()


class _InitializeOnce:
    """A layer that is called several times in a pass is initialized at its first call."""

    def __init__(self) -> None:
        self.done = False

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not self.done and isinstance(layer, InitializedFromData):
            layer.initialize(inputs[0])
            self.done = True
