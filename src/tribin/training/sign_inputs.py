"""What the signs of binary activations are taken of, and how many gradients pass them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tribin.nn import BinaryConv2d
from tribin.sharding import batch_mean


@contextmanager
def measured_sign_inputs(model: nn.Module, *, enabled: bool = True) -> Iterator[dict[str, Tensor]]:
    """Measure the inputs of the model's layers with binary input while it runs inside.

    A layer that runs several times is measured the last time. What ``torch.compile`` has compiled
    runs without being measured, and where it is not `enabled` nothing is.

    Yields:
        By ``sign_input_rms/<layer>`` the root mean square of its input, and by
        ``gradients_passed/<layer>`` the share of it whose gradients pass the sign; scalars on the
        device.
    """
    found: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(_Measure(name, found))
        for name, layer in model.named_modules()
        if enabled and isinstance(layer, BinaryConv2d) and layer.binary_input
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


class _Measure:
    def __init__(self, name: str, found: dict[str, Tensor]) -> None:
        self.name, self.found = name, found

    @torch.no_grad()
    def __call__(self, layer: BinaryConv2d, inputs: tuple[Any, ...]) -> None:
        squares: Tensor = inputs[0].float().square()
        passed = (squares <= 1).sum() / squares.numel()
        mean_square, share = batch_mean(torch.stack((squares.mean(), passed)))
        self.found[f"sign_input_rms/{self.name}"] = mean_square.sqrt()
        self.found[f"gradients_passed/{self.name}"] = share
