"""One precision of a model, trained turn by turn, whose training lies in a folder.

A turn begins with the state that the one before left there, and ends with the next: a cut between
two turns leaves no trace, and one within a turn loses that turn alone.
"""

import gc
import json
import time
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.training import Training, bits_per_dim, images_per_second
from tribin.atomic_file import write_atomically

STATE = "state.pt"
CURVE = "curve.jsonl"


@dataclass(frozen=True)
class Progress:
    """How far a contender is, and what its last turn took.

    Attributes:
        images_seen: in all turns.
        turn_seconds: of the whole turn but for writing its state; 0 before the first one.
        images_per_second: of the turn after its first steps; None where it had no others.
        peak_memory_bytes: of the GPU; None on a CPU.
    """

    images_seen: int = 0
    turn_seconds: float = 0.0
    images_per_second: float | None = None
    peak_memory_bytes: int | None = None


class Contender:
    """One precision of a model.

    Args:
        recipe: as `read_recipe` gives it.
        folder: of its state and its curve; it is made.

    Attributes:
        name: of the folder, the precision, such as ``"w1a1"``.
        progress: as of its last turn.
        curve: see `Training`.
    """

    def __init__(self, recipe: SimpleNamespace, folder: Path) -> None:
        self.recipe = recipe
        self.name = folder.name
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*.tmp"):  # of a process that was killed
            leftover.unlink()
        state = self._state()
        self.progress = Progress(**state["progress"]) if state else Progress()
        self.curve: list[dict[str, float]] = state["training"]["curve"] if state else []

    @property
    def done(self) -> bool:
        """Whether it has seen as many images as its recipe asks for."""
        return self.progress.images_seen >= self.recipe.training.images

    def take_turn(self, images: Tensor, count: int) -> None:
        """Train on the next images, but not beyond those of the recipe, and save the state.

        Args:
            images: of all epochs, uint8 [N, C, H, W], on the device.
            count: how many to see.

        Raises:
            NonFiniteError: if a step is not finite; the state is as before.
            OSError: if the state can't be written; it is as before.
        """
        start = time.monotonic()
        if images.is_cuda:
            gc.collect()  # the model before is part of a cycle, and its memory is not this one's
            torch.cuda.reset_peak_memory_stats(images.device)
        training = self._training(images)
        known = len(training.curve)
        training.train(min(training.images_seen + count, self.recipe.training.images))
        progress = Progress(
            training.images_seen,
            time.monotonic() - start,
            images_per_second(training.curve[known:]),
            torch.cuda.max_memory_allocated(images.device) if images.is_cuda else None,
        )
        self._write(training, progress)

    def bits_per_dim(self, images: Tensor) -> dict[str, Any]:
        """Those of its newest state, see `training.bits_per_dim`, on uint8 [N, C, H, W]."""
        model = self._training(images).model.eval()
        return bits_per_dim(model, images, self.recipe.evaluation.batch_size)

    def _training(self, images: Tensor) -> Training:
        training = Training(self.recipe, images)
        if state := self._state():
            training.restore(state["training"])
        else:
            training.initialize()
        return training

    def _state(self) -> dict[str, Any] | None:
        file = self._folder / STATE
        if not file.exists():
            return None
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)

    def _write(self, training: Training, progress: Progress) -> None:
        # A cut between the two leaves a curve that the turn, taken again, writes again.
        lines = "".join(f"{json.dumps(point)}\n" for point in training.curve)
        write_atomically(self._folder / CURVE, lines.encode())
        content = BytesIO()
        torch.save({"training": training.state(), "progress": asdict(progress)}, content)
        write_atomically(self._folder / STATE, content.getvalue())
        self.progress, self.curve = progress, training.curve
