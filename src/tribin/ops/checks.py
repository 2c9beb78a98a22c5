"""Checks of an op's arguments, made before anything is launched and without reading a value."""

from torch import Tensor


def check_floating(op: str, **tensors: Tensor | None) -> None:
    """Raise a TypeError that names the first tensor which is not floating point."""
    for name, tensor in tensors.items():
        if tensor is not None and not tensor.is_floating_point():
            raise TypeError(f"{op}: {name} is {tensor.dtype}, it must be floating point")


def check_same_device(op: str, x: Tensor, **others: Tensor | None) -> None:
    """Raise a ValueError that names the first tensor which is not on x's device."""
    for name, tensor in others.items():
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{op}: {name} is on {tensor.device}, x is on {x.device}")


def check_per_output(op: str, weight_name: str, weight: Tensor, **values: Tensor | None) -> None:
    """Raise a ValueError that names the first tensor without one element per output of weight."""
    outputs = weight.shape[:1]
    for name, value in values.items():
        if value is not None and value.shape != outputs:
            raise ValueError(
                f"{op}: {name} has the shape {list(value.shape)}, "
                f"{weight_name} asks for {list(outputs)}"
            )
