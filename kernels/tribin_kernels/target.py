"""The device that kernels are launched on, or compiled for."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache

import torch


@dataclass(frozen=True)
class Target:
    """A kind of GPU.

    Args:
        backend: "cuda" or "hip".
        arch: compute capability, 90 for sm_90; or AMD's name, "gfx942".
        device_name: as the driver gives it, "NVIDIA H200"; empty where there is no device.
    """

    backend: str
    arch: int | str
    device_name: str = ""

    @property
    def label(self) -> str:
        """Such as "sm_90" or "gfx942"."""
        return f"sm_{self.arch}" if self.backend == "cuda" else str(self.arch)

    @property
    def has_ptx(self) -> bool:
        """Whether inline assembly in PTX can be compiled."""
        return self.backend == "cuda"

    @property
    def has_bit_mma(self) -> bool:
        """Whether the tensor core multiplies single bits, in AND form, natively."""
        return self.backend == "cuda" and 80 <= int(self.arch) <= 90


INTERPRETER = Target("cuda", 90, "interpreter")
"""What kernels see when Triton interprets them on the CPU."""

_assumed: ContextVar[Target] = ContextVar("assumed", default=INTERPRETER)


@contextmanager
def assume(target: Target) -> Iterator[None]:
    """Treat tensors that are not on a GPU as if they were on `target`."""
    token = _assumed.set(target)
    try:
        yield
    finally:
        _assumed.reset(token)


def target_of(device: torch.device) -> Target:
    """The target of a GPU, or the assumed one for tensors elsewhere."""
    return _probe(device) if device.type == "cuda" else _assumed.get()


@cache
def _probe(device: torch.device) -> Target:
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return Target("hip", properties.gcnArchName.partition(":")[0], properties.name)
    return Target("cuda", 10 * properties.major + properties.minor, properties.name)
