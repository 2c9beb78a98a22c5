"""Stopping a run by a signal, at a point from which it can be resumed."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from torch import nn

from tribin.distributed import maximum
from tribin.errors import StoppedError
from tribin.tracking.progress import print_line

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopSignal:
    """Remembers that a signal asked the run to stop; the run looks when it suits it.

    A second signal has its usual effect, at once. What is on disk then is as after any other kill.
    """

    def __init__(self) -> None:
        self._number = 0  # no signal has it

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
        """Raise a StoppedError where a signal has come, in all processes if in one of them."""
        _raise_for(maximum(self._number))

    @contextmanager
    def stopping_within(self, model: nn.Module) -> Iterator[None]:
        """Check before each layer that the model runs inside, and with the others at the end."""
        hooks = [
            layer.register_forward_pre_hook(lambda *_: _raise_for(self._number))
            for layer in model.modules()
        ]
        try:
            yield
        except StoppedError:
            pass  # all raise it below, when the others are there
        finally:
            for hook in hooks:
                hook.remove()
        self.check()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        # The system's own handlers act within a long operation too, where Python's would wait.
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        self._number = number
        name = signal.Signals(number).name
        print_line(f"{name}: stopping where the run can be resumed; once more stops at once")


def _raise_for(number: int) -> None:
    if number:
        raise StoppedError(f"stopped by {signal.Signals(number).name}")
