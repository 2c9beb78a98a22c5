"""The problems that a model poses, read off its calls."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tribin.cost import evaluation, operation_costs
from tribin.errors import InputError
from tribin.models import GenerativeModel
from tribin.nn import pack
from tribin.profiling.kernels.problem import OPS, Problem, pair


def problems_of(model: GenerativeModel, batch_size: int) -> list[Problem]:
    """What a model asks of the ops: in a training step, and as its packed twin in evaluation.

    Nothing is computed: the calls are recorded on tensors without values.

    Args:
        model: which may be on the meta device; it stays as it is.
        batch_size: images of the step, and of the evaluation.

    Raises:
        InputError: if what the model calls depends on values.
    """
    calls = _Calls()

    def train(copied: GenerativeModel) -> None:
        with calls:
            images = torch.zeros(batch_size, *copied.image_shape, dtype=torch.uint8)
            copied(images).loss.backward()

    def evaluate(copied: GenerativeModel) -> None:
        with calls:
            evaluation(batch_size)(copied)

    trained = operation_costs(model, train, training=True)
    packed = operation_costs(pack(model), evaluate)
    if trained is None or packed is None:
        raise InputError(f"what {type(model).__name__} calls depends on values; give --shape")
    return in_order(calls.problems)


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """Each problem once, op by op in the order of `OPS`, the largest first."""

    def key(problem: Problem) -> tuple[int, int, str]:
        size = math.prod((*problem.x, problem.outputs, *problem.kernel))
        return OPS.index(problem.op), -size, str(problem)

    return sorted(set(problems), key=key)


class _Calls(TorchDispatchMode):
    """Notes every call of an op of `OPS`."""

    def __init__(self) -> None:
        super().__init__()
        self.problems: list[Problem] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        namespace, op = func._schema.name.split("::")
        if namespace == "tribin" and op in OPS:
            names = (argument.name for argument in func._schema.arguments)
            self.problems.append(_problem(op, dict(zip(names, args, strict=True))))
        return func(*args, **(kwargs or {}))


def _problem(op: str, call: dict[str, Any]) -> Problem:
    """Of the arguments of a call."""
    if op == "pack_signs":
        return Problem(op, tuple(call["x"].shape))
    if op == "packed_conv2d":
        outputs, *kernel, _ = call["weight_bits"].shape
        return _conv2d(op, call, call["channels"], outputs, kernel, _packed_options(call))
    outputs, length, *kernel = call["latent_weight"].shape
    if kernel:
        return _conv2d(op, call, length, outputs, kernel, frozenset())
    rows = math.prod(call["grad_y" if "grad_y" in call else "x"].shape[:-1])
    return Problem(op, (rows, length), outputs)


def _conv2d(
    op: str,
    call: dict[str, Any],
    channels: int,
    outputs: int,
    kernel: list[int],
    options: frozenset[str],
) -> Problem:
    x: Tensor = call["signs" if "signs" in call else "x"]
    height, width = x.shape[1:3] if x.dtype == torch.int32 else x.shape[2:]
    return Problem(
        op, (x.shape[0], channels, height, width), outputs, pair(kernel),
        pair(call["stride"]), pair(call["padding"]), options,
    )  # fmt: skip


def _packed_options(call: dict[str, Any]) -> frozenset[str]:
    bits = call["x"].dtype == torch.int32
    given = {
        "signs": call["binary_input"] and not bits,
        "bits": bits,
        "residual": call["residual"] is not None,
        **{name: call[name] for name in ("gate", "elu", "to_bits")},
    }
    return frozenset(name for name, is_given in given.items() if is_given)
