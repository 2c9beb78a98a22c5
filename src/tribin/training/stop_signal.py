"""Stopping a run by a signal, at a point from which it can be resumed."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from torch import nn

from tribin.errors import StoppedError
from tribin.tracking.progress import print_line

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopSignal:
    """Remembers that a signal asked the run to stop; the run looks when it suits it.

    A second signal has its usual effect, at once. What is on disk then is as after any other kill.
    """

    def __init__(self) -> None:
        self._name: str | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear the signals inside; afterwards they do what they did before.

        Only the main thread can hear them; in another nothing changes.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._hear) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def check(self) -> None:
        """Raise a StoppedError where a signal has come."""
        if self._name is not None:
            raise StoppedError(f"stopped by {self._name}")

    @contextmanager
    def stopping_within(self, model: nn.Module) -> Iterator[None]:
        """Check before each layer that the model runs inside."""
        hooks = [
            layer.register_forward_pre_hook(lambda *_: self.check()) for layer in model.modules()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        # The system's own handlers act within a long operation too, where Python's would wait.
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        self._name = signal.Signals(number).name
        print_line(f"{self._name}: stopping where the run can be resumed; once more stops at once")
