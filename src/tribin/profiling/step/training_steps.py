"""The steps that a profile takes: those of the trainer, on random images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from tribin.errors import NonFiniteError
from tribin.models import GenerativeModel
from tribin.nn import initialize_from_data
from tribin.training.guard import LAG, Guard, TakenStep
from tribin.training.optimizer import build_average, build_optimizer, set_learning_rate
from tribin.training.phases import PHASES, listening, phase
from tribin.training.sign_inputs import measured_sign_inputs
from tribin.training.step import SignFlips, train_step
from tribin.training.transfer import on_host, to_device

if TYPE_CHECKING:
    from tribin.recipe import Recipe

BATCHES = 8
"""The images are so many batches."""


@contextmanager
def _deterministic() -> Iterator[None]:
    """What the trainer asks of cuDNN."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


class TrainingSteps:
    """Takes steps as the trainer does, on random images.

    Args:
        model: gets moved, initialized from data, and trained.
        recipe: its sections ``optimizer`` and ``training``; any object with their attributes does.
        device: where to train.
        batch_size: images a step, in place of the recipe's.
    """

    def __init__(
        self, model: GenerativeModel, recipe: Recipe, device: torch.device, batch_size: int
    ) -> None:
        self.model, self.recipe, self.device = model.to(device), recipe, device
        self.batch_size = batch_size
        shape = (BATCHES * batch_size, *model.image_shape)
        self.images = torch.randint(model.levels, shape, dtype=torch.uint8, device=device)
        initialize_from_data(self.model.eval(), self.images[:batch_size])
        self.optimizer = build_optimizer(self.model, recipe)
        self.average = build_average(self.model, recipe)
        self.images_seen = 0
        self._guard = Guard(LAG[device.type])

    @_deterministic()
    def take(self, *, logs: bool = False) -> None:
        """Take one step; with `logs`, look at what the trainer logs of some.

        Raises:
            NonFiniteError: if loss or gradient are not finite.
        """
        with phase("data"):
            indices = torch.randint(len(self.images), (self.batch_size,))
            images = self.images[to_device(indices, self.device)]
        set_learning_rate(self.optimizer, self.recipe, self.images_seen)
        with phase("logging"):
            flips = SignFlips(self.model) if logs else None
        with measured_sign_inputs(self.model, enabled=logs) as inputs:
            result = train_step(
                self.model.train(), self.optimizer, images, self.recipe, self.average
            )
        self.images_seen += self.batch_size
        self._guard.watch(TakenStep(result, images, self.images_seen))
        for bad in self._guard.not_finite(settle=logs):
            raise NonFiniteError(f"{bad.result} after {bad.images_seen:,} random images")
        if flips is not None:
            with phase("logging"):
                flips.rates()
                result.values()
                on_host(inputs)


def seconds_by_phase(run: Callable[[], object], now: Callable[[], float]) -> dict[str, float]:
    """The seconds of a run in each of ``PHASES``, and in none of them as ``"other"``."""
    seconds = dict.fromkeys(PHASES, 0.0)

    @contextmanager
    def clocked(name: str) -> Iterator[None]:
        start = now()
        yield
        seconds[name] += now() - start

    start = now()
    with listening(clocked):
        run()
    whole = now() - start
    return {**seconds, "other": whole - sum(seconds.values())}
