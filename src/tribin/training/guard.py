"""The guard: finds out which steps were not finite, without the host waiting for each step."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tribin.training.step import StepResult

LAG = {"cpu": 0, "cuda": 1}
"""How many steps a device may be given before the host asks how one went. A step that is not
finite is masked on the device, so that no later one builds on it."""


@dataclass(frozen=True)
class TakenStep:
    """A step that was begun on the device.

    Attributes:
        result: what it saw.
        images: all of the step.
        images_seen: training images after it.
    """

    result: StepResult
    images: Tensor
    images_seen: int


class Guard:
    """Looks at the flags of steps, each so many steps later.

    Args:
        lag: how many of the newest steps may go unread.
    """

    def __init__(self, lag: int) -> None:
        self._lag = lag
        self._unread: deque[tuple[TakenStep, _Flag]] = deque()

    def watch(self, step: TakenStep) -> None:
        """Take on a step."""
        self._unread.append((step, _Flag(step.result.finite)))

    def not_finite(self, *, settle: bool) -> Iterator[TakenStep]:
        """Those of the steps due that were not finite; with `settle`, all are due."""
        while len(self._unread) > (0 if settle else self._lag):
            step, finite = self._unread.popleft()
            if not finite:
                yield step


class _Flag:
    """A scalar of a device, bool, on its way to the host."""

    def __init__(self, flag: Tensor) -> None:
        self._value, self._arrived = flag, None
        if flag.is_cuda:
            self._value = torch.empty((), dtype=torch.bool, pin_memory=True)
            self._value.copy_(flag, non_blocking=True)
            self._arrived = torch.cuda.current_stream(flag.device).record_event()

    def __bool__(self) -> bool:
        if self._arrived is not None:
            self._arrived.synchronize()
        return bool(self._value)
