"""Precisions of a model trained side by side: by turns, so that all of them see the same images."""

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks.gpu.contender import Contender
from benchmarks.gpu.images import Images
from benchmarks.gpu.recipes import read_recipe
from benchmarks.gpu.training_report import Standing, write_training_report
from tribin.errors import NonFiniteError

ORDER = ("w32a32", "w1a32", "w1a1")

TURN_STEPS, TINY_TURN_STEPS = 400, 3

SHARE_FOR_EVALUATION = 0.1
"""Of a sitting's time."""


def train_side_by_side(
    model: str,
    images: Images,
    folder: Path,
    device: torch.device,
    *,
    seconds: float,
    tiny: bool,
    report: Callable[[str], None],
) -> int:
    """Go on for a sitting with the training of a model's precisions, then evaluate them.

    Args:
        model: one of `MODEL_NAMES`.
        images: to train and to evaluate on.
        folder: of the contenders' folders, and of the results.
        device: where.
        seconds: for all of it; only first turns start whether they fit or not.
        tiny: few channels, blocks and images.
        report: is told of turns and results.

    Returns:
        An exit code: 0 all have seen the images of their recipes, 1 one failed, 75 the time is
        over.
    """
    end = time.monotonic() + (1 - SHARE_FOR_EVALUATION) * seconds
    contenders = [Contender(read_recipe(model, p, tiny=tiny), folder / p) for p in ORDER]
    on_device = Images(images.train.to(device), images.others.to(device), images.name)
    sitting = Sitting(contenders, on_device, report)
    sitting.take_turns(end, TINY_TURN_STEPS if tiny else TURN_STEPS)
    standings = sitting.standings()
    report(f"\n{write_training_report(model, standings, folder, device)}")
    if sitting.faults:
        return 1
    return 0 if all(contender.done for contender in contenders) else 75


class Sitting:
    """Turns of contenders, and their evaluation.

    Args:
        contenders: who comes first has the first turn.
        images: to train and to evaluate on, on the device.
        report: is told of turns and faults.

    Attributes:
        faults: by contender that failed what was wrong, in one line; it takes no more turns.
    """

    def __init__(
        self, contenders: Sequence[Contender], images: Images, report: Callable[[str], None]
    ) -> None:
        self.faults: dict[str, str] = {}
        self._contenders = contenders
        self._images = images
        self._report = report

    def take_turns(self, end: float, steps: int) -> None:
        """Take turns of so many steps until the clock is at `end` or all images are seen."""
        while contender := self._next(end - time.monotonic()):
            with self._attempt(contender):
                contender.take_turn(
                    self._images.train, steps * contender.recipe.training.batch_size
                )
                self._report(f"{contender.name:<8}{_newest(contender)}")

    def _next(self, left: float) -> Contender | None:
        """The first of those that are behind, if a turn of each is expected to fit."""
        able = [c for c in self._contenders if not c.done and c.name not in self.faults]
        least = min((c.progress.images_seen for c in able), default=0)
        behind = [c for c in able if c.progress.images_seen == least]
        seconds = sum(c.progress.turn_seconds for c in behind)
        return behind[0] if behind and seconds <= max(left, 0) else None

    def standings(self) -> dict[str, Standing]:
        """By precision; those that have had a turn are evaluated."""
        return {contender.name: self._standing(contender) for contender in self._contenders}

    def _standing(self, contender: Contender) -> Standing:
        progress, evaluation = contender.progress, {}
        if progress.images_seen:
            with self._attempt(contender):
                evaluation = contender.bits_per_dim(self._images.others)
        return Standing(
            contender.recipe,
            progress,
            contender.curve,
            {**evaluation, "evaluated_on": self._images.name},
            self.faults.get(contender.name),
        )

    @contextmanager
    def _attempt(self, contender: Contender) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever it is, the others go on
            if not isinstance(error, NonFiniteError):
                self._report(traceback.format_exc())
            fault = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            self.faults[contender.name] = fault
            self._report(f"{contender.name:<8}failed: {fault}")


def _newest(contender: Contender) -> str:
    progress, point = contender.progress, contender.curve[-1]
    return (
        f"{progress.images_seen:>12,} images{progress.turn_seconds:>8.1f} s"
        f"{point['bits_per_dim']:>10.4f} bits/dim in training"
    )
