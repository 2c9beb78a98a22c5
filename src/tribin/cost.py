"""What a model's run costs, counted on tensors without values: nothing is computed."""

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, shape_wrapper

from tribin.models import GenerativeModel
from tribin.running_module import RunningModule

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class OperationCost:
    """One call of an operation of torch's or tribin's.

    Attributes:
        module: the innermost module that made it, by name; ``""`` outside of all.
        operation: such as ``"aten::convolution"``.
        multiply_adds: of matrix products and convolutions; 0 for every other operation.
        bytes: of the tensors that it reads and writes, each once; 0 for views.
        arithmetic: what is multiplied: ``"bit"`` where both sides are signs, else the input's
            dtype; None without products.
    """

    module: str
    operation: str
    multiply_adds: int
    bytes: int
    arithmetic: str | None


def evaluation_multiply_adds(model: GenerativeModel) -> dict[str, int] | None:
    """Count one draw of the density of one image; see `multiply_adds`."""
    return multiply_adds(model, evaluation(1))


def sampling_multiply_adds(model: GenerativeModel) -> dict[str, int] | None:
    """Count one sample; see `multiply_adds`."""
    return multiply_adds(model, sampling(1))


def evaluation(batch_size: int) -> Callable[[GenerativeModel], Tensor]:
    """One draw of the density of each of so many images, as a run for `operation_costs`."""
    return lambda model: model.log_weight(
        torch.zeros(batch_size, *model.image_shape, dtype=torch.uint8)
    )


def sampling(batch_size: int) -> Callable[[GenerativeModel], Tensor]:
    """So many samples, as a run for `operation_costs`."""
    return lambda model: model.sample(batch_size)


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
    costs = operation_costs(model, run)
    if costs is None:
        return None
    counts: Counter[str] = Counter()
    for cost in costs:
        if cost.multiply_adds:
            counts[cost.module] += cost.multiply_adds
    return dict(counts)


def operation_costs(
    model: Model, run: Callable[[Model], object], *, training: bool = False
) -> list[OperationCost] | None:
    """List every operation of a run, in order; the arguments are those of `multiply_adds`.

    With `training`, the copy is in training mode and has gradients. What the backward pass calls
    belongs to no module.
    """
    with FakeTensorMode(), torch.device("cpu"), torch.set_grad_enabled(training):
        copied = _without_values(model).train(training)
        with RunningModule(copied) as running, CostMode(running) as counter:
            try:
                run(copied)
            except (DataDependentOutputException, DynamicOutputShapeException):
                return None
            return counter.costs


def _without_values(model: Model) -> Model:
    """A copy whose tensors are those of the FakeTensorMode that is on."""
    parameters = {id(x): nn.Parameter(_like(x), x.requires_grad) for x in model.parameters()}
    buffers = {id(x): _like(x) for x in model.buffers()}
    return copy.deepcopy(model, {**parameters, **buffers})  # deepcopy takes these for copied


def _like(x: Tensor) -> Tensor:
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cpu")


class CostMode(TorchDispatchMode):
    """Notes the cost of every operation while it is on.

    Args:
        running: whose name the costs get.
    """

    def __init__(self, running: RunningModule) -> None:
        super().__init__()
        self.costs: list[OperationCost] = []
        self._running = running

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":  # asks for a device or a layout
            return func(*args, **kwargs)
        formula = FORMULAS.get(func.overloadpacket)
        if formula is None:
            with self:  # in inference mode a linear layer comes as such
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        flops = formula(*args, **kwargs, out_val=out) if formula else 0
        self.costs.append(
            OperationCost(
                self._running.name,
                func._schema.name,
                flops // 2,  # a multiply-add is two operations
                0 if func.is_view else _bytes((args, kwargs, out)),
                _arithmetic(func, args) if flops else None,
            )
        )
        return out


def _bytes(values: object) -> int:
    return sum(_size(x) for x in tree_leaves(values) if isinstance(x, Tensor))


def _size(x: Tensor) -> int:
    """Bytes of the elements that differ: an expanded tensor repeats some."""
    lengths = (n if step else min(n, 1) for n, step in zip(x.shape, x.stride(), strict=True))
    return math.prod(lengths) * x.element_size()


def _arithmetic(func: Any, args: Sequence[Any]) -> str:
    signature = dict(
        zip((argument.name for argument in func._schema.arguments), args, strict=False)
    )
    first = next(x for x in args if isinstance(x, Tensor))
    binary = signature.get("binary_input") or func._schema.name.endswith("_w1a1")
    if binary or first.dtype == torch.int32:
        return "bit"
    return str(first.dtype).removeprefix("torch.")


def _binary_flops(
    x: Sequence[int], weight: Sequence[int], *_: object, out_shape: Sequence[int]
) -> int:
    return 2 * math.prod(out_shape) * math.prod(weight[1:])


def _binary_input_flops(*shapes: Any, out_shape: Sequence[Sequence[int]]) -> int:
    return _binary_flops(*shapes, out_shape=out_shape[0])  # with it the bits for the backward pass


def _backward_flops(grad_y: Sequence[int], *shapes: Any, out_shape: Sequence[Sequence[int]]) -> int:
    """The gradient for the input and the one for the weight, each as much as the forward pass."""
    _, weight, *_ = out_shape
    return 2 * 2 * math.prod(grad_y) * math.prod(weight[1:])


def _packed_flops(
    x: Sequence[int],
    weight_bits: Sequence[int],
    scale: Sequence[int],
    bias: Sequence[int] | None,
    slope: Sequence[int] | None,
    residual: Sequence[int] | None,
    channels: int,
    *options: Any,
    out_shape: Sequence[int],
) -> int:
    *_, to_bits = options
    height, width = out_shape[1:3] if to_bits else out_shape[2:]
    return 2 * x[0] * height * width * math.prod(weight_bits[:-1]) * channels


def _formulas() -> Iterator[tuple[Any, Callable[..., int]]]:
    ops = torch.ops.tribin
    for name in ("binary_linear", "binary_conv2d"):
        yield getattr(ops, name), _binary_flops
        yield getattr(ops, f"{name}_w1a1"), _binary_input_flops
        yield getattr(ops, f"{name}_backward"), _backward_flops
        yield getattr(ops, f"{name}_w1a1_backward"), _backward_flops
    yield ops.packed_conv2d, _packed_flops


FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    **{op: shape_wrapper(formula) for op, formula in _formulas()},
}
"""The operations, two for each multiply-add, that a call asks for, from its arguments' shapes."""
