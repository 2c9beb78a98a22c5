"""The one place where kernels are launched, so that launches can also be recorded and compiled."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Launch:
    """One launch of a Triton kernel.

    Args:
        kernel: decorated with `triton.jit`.
        grid: programs along each axis.
        arguments: what the kernel reads at run time, by name: tensors, numbers, or None.
        constants: its `tl.constexpr` parameters, by name.
        num_warps, num_stages: as Triton has them.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    constants: dict[str, Any]
    num_warps: int
    num_stages: int

    def run(self) -> None:
        """Launch on the device of the first tensor; an empty grid does nothing."""
        if 0 in self.grid:
            return
        tensor = next(x for x in self.arguments.values() if isinstance(x, Tensor))
        with torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext():
            self.kernel[self.grid](
                **self.arguments,
                **self.constants,
                num_warps=self.num_warps,
                num_stages=self.num_stages,
            )


_recorded: ContextVar[list[Launch] | None] = ContextVar("recorded", default=None)


@contextmanager
def record() -> Iterator[list[Launch]]:
    """Collect launches instead of running them; give the functions tensors on the meta device."""
    launches: list[Launch] = []
    token = _recorded.set(launches)
    try:
        yield launches
    finally:
        _recorded.reset(token)


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    arguments: dict[str, Any],
    constants: dict[str, Any],
    *,
    num_warps: int = 4,
    num_stages: int = 3,
) -> None:
    """Run a kernel, or record the launch inside `record`.

    Raises:
        ValueError: the tensors are not all on one device.
    """
    _check_devices(arguments)
    this = Launch(kernel, grid, arguments, constants, num_warps, num_stages)
    recorded = _recorded.get()
    if recorded is None:
        this.run()
    else:
        recorded.append(this)


def _check_devices(arguments: dict[str, Any]) -> None:
    tensors = {name: x for name, x in arguments.items() if isinstance(x, Tensor)}
    first, expected = next(iter(tensors.items()))
    for name, tensor in tensors.items():
        if tensor.device != expected.device:
            raise ValueError(f"{name} is on {tensor.device}, {first} is on {expected.device}")
