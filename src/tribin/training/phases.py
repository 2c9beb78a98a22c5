"""The phases of a training step, named where their code is, for whoever measures them.

``"data"``, ``"forward"``, ``"backward"``, ``"clip"``, ``"optimizer"`` and ``"logging"``. None
contains another; what is in none is what a step does beside them. Between steps there is
``"checkpoint"``, as long as a run waits for one.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

from torch.profiler import record_function

PHASES = ("data", "forward", "backward", "clip", "optimizer", "logging")
"""In the order of a step."""

Listener = Callable[[str], AbstractContextManager[object]]
"""Is given the name of each phase, and entered and left with it."""

_listener: ContextVar[Listener] = ContextVar("_listener", default=nullcontext)


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Name what runs inside by one of the names above: torch's profiler shows it under that."""
    with record_function(name), _listener.get()(name):
        yield


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have a listener hear of the phases that run inside, in place of any other."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
