"""Which of a model's modules is running."""

from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

from torch import nn


class RunningModule:
    """Follows a model from module to module; use it as a context manager.

    Args:
        model: every module of it is followed, by hooks that go when the context ends.
        left: called with the name of the module that ran until now, whenever another takes over.
    """

    def __init__(self, model: nn.Module, left: Callable[[str], None] = lambda name: None) -> None:
        self._model, self._left = model, left
        self._names = [""]

    @property
    def name(self) -> str:
        """The innermost module that was called and has not returned; ``""`` outside of all."""
        return self._names[-1]

    def _enter(self, name: str, *_: object) -> None:
        self._left(self.name)
        self._names.append(name)

    def _leave(self, *_: object) -> None:
        self._left(self.name)
        self._names.pop()

    def __enter__(self) -> Self:
        self._hooks = [
            hook
            for name, module in self._model.named_modules()
            for hook in (
                module.register_forward_pre_hook(partial(self._enter, name)),
                module.register_forward_hook(self._leave),
            )
        ]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._left(self.name)
        for hook in self._hooks:
            hook.remove()
