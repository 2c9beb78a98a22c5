"""A case: one call of a kernel's launch function, of a size that real models have."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tribin_kernels.conv2d_shape import Conv2dShape
from tribin_kernels.inspect.operands import DTYPES, SHAPES, Operands
from tribin_kernels.launch import Launch, record
from tribin_kernels.launch_table import choose
from tribin_kernels.target import Target, assume

META = torch.device("meta")

TARGETS = {
    "sm_80": Target("cuda", 80),
    "sm_89": Target("cuda", 89),
    "sm_90": Target("cuda", 90),
    "sm_100": Target("cuda", 100),
    "gfx942": Target("hip", "gfx942"),
}
"""The GPUs that kernels are compiled for. A section of the launch table named after a GPU needs one
of its own: "NVIDIA H200": Target("cuda", 90, "NVIDIA H200")."""


@dataclass(frozen=True)
class Case:
    """A call to be compiled or timed.

    Args:
        kernel: the file that it is in.
        call: makes the operands, and returns what calls the kernel with them; this takes a
            configuration where the kernel has one. The string is the option of the name.
        config_class: of the kernel's configuration.
        name: "<shape>, <dtype>" or "<shape>, <dtype>, <option>", see `operands`.
    """

    kernel: str
    call: Callable[[Operands, str], Callable[..., Any]]
    config_class: type | None
    name: str

    @property
    def option(self) -> str:
        """What is asked beyond shape and dtype, or nothing."""
        return (*self.name.split(", "), "")[2]

    @property
    def shape(self) -> Conv2dShape:
        """Of the layer."""
        return SHAPES[self.name.split(", ")[0]]

    def runs_on(self, target: Target) -> bool:
        """Whether the kernel is meant for a target."""
        return target.has_bit_mma or self.kernel not in ("bit_mma", "border_table")

    def prepare(self, device: torch.device) -> Callable[..., Any]:
        """Make the operands on a device; returns what calls the kernel with them."""
        dtype = DTYPES[self.name.split(", ")[1]]
        return self.call(Operands(self.shape, dtype, device), self.option)

    @property
    def sizes(self) -> dict[str, int]:
        """What the launch table asks for."""
        return {"rows": self.shape.pixels, "outputs": self.shape.outputs}

    def config(self, device: torch.device) -> Any:
        """What the launch table has for the case on a device."""
        assert self.config_class is not None
        return choose(self.config_class, device, **self.sizes)


def record_case(case: Case, target: Target) -> list[Launch]:
    """The launches of a case on a target, in the configuration that the launch table has for it."""
    with assume(target):
        with record():
            call = case.prepare(META)
        with record() as launches:
            call(*([case.config(META)] if case.config_class else []))
    return launches
