"""Data-dependent initialization of a whole model (Salimans and Kingma, 2016)."""

from typing import Any

import torch
from torch import Tensor, nn

from tribin.nn.normalized_layer import NormalizedLayer


@torch.no_grad()
def initialize_from_data(model: nn.Module, *inputs: Any) -> None:
    """Run the model once on `inputs`, each normalized layer being initialized on what it is given.

    The layers that run first are initialized first, so that afterwards the same pass gives each
    layer's output channels mean 0 and the layer's `init_std` exactly. It runs in the dtype of the
    parameters, whatever the autocast around it.
    """
    hooks = [
        layer.register_forward_pre_hook(_InitializeOnce())
        for layer in model.modules()
        if isinstance(layer, NormalizedLayer)
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

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor]) -> None:
        if not self.done and isinstance(layer, NormalizedLayer):
            layer.initialize(inputs[0])
            self.done = True
