"""One way to solve a problem, before it is checked and timed."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from tribin.profiling.kernels.operands import Layer

Run = Callable[[], Any]


@dataclass(frozen=True)
class Candidate:
    """How something computes a problem.

    Attributes:
        operands: what a call reads: tensors, modules and plain values.
        prepare: given operands, or copies of them, does what the clock must not see, and returns
            the computation.
        results: from what the computation returns to results by their names in `Expected`.
        arithmetic: what it multiplies, a key of `Result.ceilings`; None if nothing.
        rounding: of `Expected.errors_over_bounds`.
    """

    operands: tuple[Any, ...]
    prepare: Callable[..., Run]
    results: Callable[[Any], Mapping[str, Tensor]]
    arithmetic: str | None
    rounding: float | None


class UnavailableError(Exception):
    """A baseline can't be had here; the message says why."""


def direct(function: Callable[..., Any]) -> Callable[..., Run]:
    """The `prepare` of a function that needs nothing but its operands."""
    return lambda *operands: partial(function, *operands)


def on_gpu(layer: Layer) -> bool:
    """Whether the layer's tensors are."""
    return layer.x.device.type == "cuda"


def product(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: tuple[Any, ...]) -> Tensor:
    """The library's convolution where there is a geometry, else its linear layer."""
    return F.conv2d(x, weight, bias, *geometry) if geometry else F.linear(x, weight, bias)


def per_output(values: Tensor, geometry: tuple[Any, ...]) -> Tensor:
    """[out], in a shape that broadcasts over the result."""
    return values.view(-1, 1, 1) if geometry else values


def epilogue(z: Tensor, residual: Tensor | None, options: Collection[str]) -> Tensor:
    """What follows the affine map of a packed layer, in torch; y stays real."""
    if "gate" in options:
        a, b = z.chunk(2, dim=1)
        z = a * b.sigmoid()
    if residual is not None:
        z = z + residual
    return F.elu(z) if "elu" in options else z
