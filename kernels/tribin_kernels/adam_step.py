"""A step of Adam in one pass over the memory, for all parameters in one launch.

Each element of gradient, parameter, moments and average is read once and written once. A table has
the addresses of the tensors, and the launch has a program for each block of each of them.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from tribin_kernels.adam_scalars import adam_scalars
from tribin_kernels.launch import launch
from tribin_kernels.reference import AdamSettings, AdamTensors

BLOCK = 1024
"""Elements of a program: of each tensor, a thread takes twice 16 bytes."""

_COLUMNS = 8
"""Of the table: the addresses of gradient, parameter, exp_avg, exp_avg_sq, average and step, 0
where there is none, the number of elements, and whether they are latent weights."""


class AdamStep:
    """`reference.adam_step` on a GPU, which the host never waits for.

    The table of addresses is made again at each call that finds one changed, as those of gradients
    often are; the rest is found out anew where others change.
    """

    def __init__(self) -> None:
        self._rows: list[list[int]] = []
        self._table = self._blocks = torch.empty(0)

    def __call__(
        self,
        tensors: Sequence[AdamTensors],
        gradient_norm: Tensor,
        finite: Tensor,
        averaged_steps: Tensor | None,
        settings: AdamSettings,
    ) -> None:
        """Take the step. A gradient with other strides than its parameter's is copied first.

        Raises:
            TypeError: if a tensor is not float32.
            ValueError: if a parameter has gaps in memory, or other strides than its moments or
                its average.
        """
        gradients = [_like_parameter(each) for each in tensors]  # copies live until the launch
        rows = [_row(each, gradient) for each, gradient in zip(tensors, gradients, strict=True)]
        if [row[1:] for row in rows] != [row[1:] for row in self._rows]:
            for each in tensors:
                _check(each)
            self._blocks = _blocks(rows, finite.device)
        if rows != self._rows:
            self._table = _to_device(torch.tensor(rows, dtype=torch.int64), finite.device)
            self._rows = rows
        scales, corrections = adam_scalars(
            self._table, gradient_norm, finite, averaged_steps, settings
        )
        beta1, beta2 = settings.betas
        launch(
            _adam_step,
            (self._blocks.shape[1],),
            {
                "table": self._table,
                "blocks": self._blocks,
                "scales": scales,
                "corrections": corrections,
                "finite": finite.view(torch.uint8),
                "programs": self._blocks.shape[1],
                "beta1": beta1,
                "rest1": 1 - beta1,
                "beta2": beta2,
                "rest2": 1 - beta2,
                "epsilon": settings.epsilon,
            },
            {
                "AVERAGES": averaged_steps is not None,
                "ALIGNMENT": 16 if all(x % 16 == 0 for row in rows for x in row[:5]) else 4,
                "COLUMNS": _COLUMNS,
                "BLOCK": BLOCK,
            },
        )


def _blocks(rows: list[list[int]], device: torch.device) -> Tensor:
    """The tensor of each program, and which of its blocks: int32 [2, programs]."""
    blocks = [
        (index, block)
        for index, (*_, elements, _latent) in enumerate(rows)
        for block in range(triton.cdiv(elements, BLOCK))
    ]
    return _to_device(torch.tensor(blocks, dtype=torch.int32).view(-1, 2).T, device)


def _to_device(values: Tensor, device: torch.device) -> Tensor:
    """A contiguous copy, for which the host does not wait."""
    values = values.contiguous()
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)


def _row(each: AdamTensors, gradient: Tensor | None) -> list[int]:
    step = None if gradient is None else each.step
    tensors = (gradient, each.parameter, each.exp_avg, each.exp_avg_sq, each.average, step)
    addresses = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
    return [*addresses, each.parameter.numel(), each.latent]


def _like_parameter(each: AdamTensors) -> Tensor | None:
    if each.gradient is not None and each.gradient.dtype != torch.float32:
        raise TypeError(f"adam_step: gradient has the dtype {each.gradient.dtype}, wanted float32")
    if each.gradient is None or each.gradient.stride() == each.parameter.stride():
        return each.gradient
    return torch.empty_like(each.parameter).copy_(each.gradient)


def _check(each: AdamTensors) -> None:
    alike = {name: getattr(each, name) for name in ("exp_avg", "exp_avg_sq", "average")}
    for name, tensor in {"parameter": each.parameter, **alike}.items():
        if tensor is not None and tensor.dtype != torch.float32:
            raise TypeError(f"adam_step: {name} has the dtype {tensor.dtype}, wanted float32")
    strides = each.parameter.stride()
    if torch.empty_like(each.parameter, device="meta").stride() != strides:
        raise ValueError(f"adam_step: a parameter has the strides {strides}, with gaps")
    for name, tensor in alike.items():
        if tensor is not None and tensor.stride() != strides:
            raise ValueError(
                f"adam_step: {name} has the strides {tensor.stride()}, "
                f"wanted those of its parameter, {strides}"
            )


@triton.jit
def _adam_step(
    table, blocks, scales, corrections, finite, programs, beta1, rest1, beta2, rest2, epsilon,
    AVERAGES: tl.constexpr, ALIGNMENT: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Update one block of one tensor."""
    tensor = tl.load(blocks + tl.program_id(0))
    first = tl.load(blocks + programs + tl.program_id(0)).to(tl.int64) * BLOCK
    row, corrected = table + tensor * COLUMNS, corrections + 2 * tensor
    element = first + tl.arange(0, BLOCK)
    finite_here = tl.load(finite) != 0
    left = tl.load(row + 6) - first
    if left >= BLOCK:  # whole blocks take a mask that is the same for all elements, and so 16 bytes
        _update(
            row, element, tl.broadcast_to(finite_here, (BLOCK,)), scales, corrected,
            beta1, rest1, beta2, rest2, epsilon, AVERAGES, ALIGNMENT,
        )  # fmt: skip
    else:
        _update(
            row, element, (tl.arange(0, BLOCK) < left) & finite_here, scales, corrected,
            beta1, rest1, beta2, rest2, epsilon, AVERAGES, ALIGNMENT,
        )  # fmt: skip


@triton.jit
def _update(
    row, element, inside, scales, corrected, beta1, rest1, beta2, rest2, epsilon,
    AVERAGES: tl.constexpr, ALIGNMENT: tl.constexpr,
):  # fmt: skip
    parameters = _pointer(row + 1, ALIGNMENT) + element
    parameter = tl.load(parameters, inside)
    has_gradient = inside & (tl.load(row) != 0)
    gradient = tl.load(_pointer(row, ALIGNMENT) + element, has_gradient, 0.0) * tl.load(scales)
    moments1 = _pointer(row + 2, ALIGNMENT) + element
    moments2 = _pointer(row + 3, ALIGNMENT) + element
    moment1 = beta1 * tl.load(moments1, has_gradient, 0.0) + rest1 * gradient
    moment2 = beta2 * tl.load(moments2, has_gradient, 0.0) + rest2 * gradient * gradient
    root = tl.sqrt(moment2) / tl.load(corrected + 1)
    change = tl.load(corrected) * moment1 / (root + epsilon)
    parameter = tl.where(has_gradient, parameter - change, parameter)
    # No branch: MLIR would merge what follows it in the two callers, and store 4 bytes at a time.
    limit = tl.where(tl.load(row + 7) != 0, 1.0, float("inf"))
    parameter = tl.clamp(parameter, -limit, limit)
    tl.store(moments1, moment1, has_gradient)
    tl.store(moments2, moment2, has_gradient)
    tl.store(parameters, parameter, inside)
    if AVERAGES:
        averages = _pointer(row + 4, ALIGNMENT) + element
        tl.store(averages, _lerp(tl.load(averages, inside), parameter, tl.load(scales + 1)), inside)


@triton.jit
def _lerp(start, end, weight):
    """As torch has it: the end is reached exactly where the weight is 1."""
    difference = end - start
    return tl.where(weight < 0.5, start + weight * difference, end - difference * (1 - weight))


@triton.jit
def _pointer(address, ALIGNMENT: tl.constexpr):
    """The tensor whose address is there, a multiple of ALIGNMENT."""
    pointer = tl.load(address).to(tl.pointer_type(tl.float32))
    return tl.multiple_of(pointer, ALIGNMENT)
