"""How many multiply-adds a model takes, counted on tensors without values: nothing is computed."""

import copy
import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils.flop_counter import FlopCounterMode

from tribin.models import GenerativeModel

Model = TypeVar("Model", bound=nn.Module)


def evaluation_multiply_adds(model: GenerativeModel) -> dict[str, int] | None:
    """Count one draw of the density of one image; see `multiply_adds`."""

    def evaluate(copied: GenerativeModel) -> Tensor:
        return copied.log_weight(torch.zeros(1, *copied.image_shape, dtype=torch.uint8))

    return multiply_adds(model, evaluate)


def sampling_multiply_adds(model: GenerativeModel) -> dict[str, int] | None:
    """Count one sample; see `multiply_adds`."""
    return multiply_adds(model, lambda copied: copied.sample(1))


def multiply_adds(model: Model, run: Callable[[Model], object]) -> dict[str, int] | None:
    """Count the multiply-adds of matrix products and convolutions.

    A product with the zeros that pad an image counts, one of signs as much as any other, and a
    layer that runs twice counts twice. Elementwise operations don't count.

    Args:
        model: any torch model, which may be on the meta device; it stays as it is.
        run: given a copy on the CPU, in eval mode and without values, uses it on tensors that it
            makes there.

    Returns:
        By the name of the innermost module that was called, ``""`` outside of all; None where
        `run` depends on values.
    """
    with FakeTensorMode(), torch.device("cpu"), torch.no_grad():
        attribution = _Attribution(_without_values(model).eval())
        try:
            return attribution.count(run)
        except (DataDependentOutputException, DynamicOutputShapeException):
            return None


def _without_values(model: Model) -> Model:
    """A copy whose tensors are those of the FakeTensorMode that is on."""
    parameters = {id(x): nn.Parameter(_like(x), x.requires_grad) for x in model.parameters()}
    buffers = {id(x): _like(x) for x in model.buffers()}
    return copy.deepcopy(model, {**parameters, **buffers})  # deepcopy takes these for copied


def _like(x: Tensor) -> Tensor:
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cpu")


class _Attribution:
    """Gives what is counted to the module that is running.

    FlopCounterMode has names of its own only for modules whose parents were called as well.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._flops = FlopCounterMode(display=False, custom_mapping=FORMULAS)
        self._running = [""]
        self._counts: Counter[str] = Counter()
        for name, module in model.named_modules():
            module.register_forward_pre_hook(partial(self._enter, name))
            module.register_forward_hook(self._leave)

    def count(self, run: Callable[[Any], object]) -> dict[str, int]:
        with self._flops:
            run(self._model)
        self._attribute()
        return dict(self._counts)

    def _enter(self, name: str, *_: object) -> None:
        self._attribute()
        self._running.append(name)

    def _leave(self, *_: object) -> None:
        self._attribute()
        self._running.pop()

    def _attribute(self) -> None:
        total = self._flops.get_total_flops() // 2  # a multiply-add is two operations
        self._counts[self._running[-1]] += total - self._counts.total()


def _binary_flops(
    x: Sequence[int], weight: Sequence[int], *_: object, out_shape: Sequence[int]
) -> int:
    return 2 * math.prod(out_shape) * math.prod(weight[1:])


def _binary_input_flops(*shapes: Any, out_shape: Sequence[Sequence[int]]) -> int:
    return _binary_flops(*shapes, out_shape=out_shape[0])  # with it the bits for the backward pass


def _packed_flops(
    x: Sequence[int],
    weight_bits: Sequence[int],
    scale: Sequence[int],
    bias: Sequence[int] | None,
    residual: Sequence[int] | None,
    channels: int,
    *options: Any,
    out_shape: Sequence[int],
) -> int:
    *_, to_bits = options
    height, width = out_shape[1:3] if to_bits else out_shape[2:]
    return 2 * x[0] * height * width * math.prod(weight_bits[:-1]) * channels


FORMULAS = {
    torch.ops.tribin.binary_linear: _binary_flops,
    torch.ops.tribin.binary_linear_w1a1: _binary_input_flops,
    torch.ops.tribin.binary_conv2d: _binary_flops,
    torch.ops.tribin.binary_conv2d_w1a1: _binary_input_flops,
    torch.ops.tribin.packed_conv2d: _packed_flops,
}
"""What FlopCounterMode needs to know of tribin's ops, from their arguments' shapes."""
