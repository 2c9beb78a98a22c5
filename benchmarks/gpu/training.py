"""A model in training: its steps, its state between them, and its bits/dim."""

import math
import time
from collections.abc import Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

from benchmarks.gpu.recipes import build_model
from tribin.errors import NonFiniteError
from tribin.models import GenerativeModel
from tribin.nn import initialize_from_data
from tribin.training.optimizer import (
    build_optimizer,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rate,
)
from tribin.training.step import StepResult, train_step
from tribin.training.transfer import on_host

POINT_STEPS = 50
"""A point of the curve is the mean over so many steps, and the host waits for the device there."""


class Training:
    """A model in training; what a step does is a function of the seed and the images seen.

    Args:
        recipe: as `read_recipe` gives it.
        images: to train on, uint8 [N, C, H, W], on the device to train on.

    Attributes:
        model: as far as it is trained.
        images_seen: by it.
        curve: for every few steps the images seen after them, means of loss and bits/dim, and the
            seconds that they took.
    """

    def __init__(self, recipe: SimpleNamespace, images: Tensor) -> None:
        torch.backends.cudnn.deterministic = True
        torch.manual_seed(recipe.seed)
        self._recipe = cast(Any, recipe)
        self._images = images
        self.model = build_model(recipe).to(images.device)
        self._optimizer = build_optimizer(self.model, self._recipe)
        self.images_seen = 0
        self.curve: list[dict[str, float]] = []

    def initialize(self) -> None:
        """Data-dependent initialization, on the images that training sees first."""
        torch.manual_seed(self._recipe.seed)
        count = min(self._recipe.training.initialization_images, len(self._images))
        initialize_from_data(self.model.eval(), self._next_images(count))

    def state(self) -> dict[str, Any]:
        """All that training goes on from: tensors, numbers, and lists and dictionaries of them."""
        return {
            "model": self.model.state_dict(),
            "optimizer": optimizer_tensors(self._optimizer, self.model),
            "images_seen": self.images_seen,
            "curve": self.curve,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `state` returned, perhaps on another device."""
        self.model.load_state_dict(state["model"])
        load_optimizer_tensors(self._optimizer, self.model, state["optimizer"])
        self.images_seen, self.curve = state["images_seen"], state["curve"]

    def train(self, until: int) -> None:
        """Take steps until so many images are seen.

        Raises:
            NonFiniteError: if a step was not finite; at most `POINT_STEPS` later.
        """
        self.model.train()
        while self.images_seen < until:
            self._train_to_next_point(until)

    def _train_to_next_point(self, until: int) -> None:
        start = time.monotonic()
        steps: dict[int, StepResult] = {}
        while len(steps) < POINT_STEPS and self.images_seen < until:
            result = self._step(min(self._recipe.training.batch_size, until - self.images_seen))
            steps[self.images_seen] = result
        _check_finite(steps)
        names = "loss", "bits_per_dim"
        means = {n: torch.stack([r.metrics[n] for r in steps.values()]).mean() for n in names}
        numbers = on_host(means)  # waits for the steps
        seconds = time.monotonic() - start
        self.curve.append({"images_seen": self.images_seen, **numbers, "seconds": seconds})

    def _step(self, count: int) -> StepResult:
        images = self._next_images(count)
        set_learning_rate(self._optimizer, self._recipe, self.images_seen)
        torch.manual_seed(self._recipe.seed + self.images_seen)
        self.images_seen += count
        return train_step(self.model, self._optimizer, images, self._recipe)

    def _next_images(self, count: int) -> Tensor:
        """Of the epochs, which follow one another without end; a batch may be of two of them."""
        parts: list[Tensor] = []
        position = self.images_seen
        while (missing := self.images_seen + count - position) > 0:
            epoch, place = divmod(position, len(self._images))
            order = _order(self._recipe.seed + epoch, len(self._images), self._images.device)
            parts.append(order[place : place + missing])
            position += len(parts[-1])
        return self._images[torch.cat(parts)]


@lru_cache(maxsize=2)
def _order(seed: int, count: int, device: torch.device) -> Tensor:
    """All images once, in an order of an epoch's own."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).to(device)


def _check_finite(steps: dict[int, StepResult]) -> None:
    """Raise for the first step that was not finite, of those by the images seen after them."""
    finite = torch.stack([result.finite for result in steps.values()]).tolist()
    for (images_seen, result), was_finite in zip(steps.items(), finite, strict=True):
        if not was_finite:
            raise NonFiniteError(f"{result} after {images_seen:,} images")


def images_per_second(points: Sequence[dict[str, float]]) -> float | None:
    """The rate over successive points of a curve.

    Kernels are compiled and memory is allocated before the first one, which does not count; None
    for a single point.
    """
    if len(points) < 2:
        return None
    images = points[-1]["images_seen"] - points[0]["images_seen"]
    return images / sum(point["seconds"] for point in points[1:])


@torch.inference_mode()
def bits_per_dim(model: GenerativeModel, images: Tensor, batch_size: int) -> dict[str, Any]:
    """Mean and standard error over images, by one draw of the bound for each.

    Raises:
        NonFiniteError: if one of them is not finite.
    """
    torch.manual_seed(0)
    nats = [-model.log_weight(batch).double() for batch in images.split(batch_size)]
    bits = model.to_bits_per_dim(torch.cat(nats))
    if not bits.isfinite().all():
        raise NonFiniteError(f"the density of one of {len(images):,} images is not finite")
    error = bits.std().item() / math.sqrt(len(bits))
    return {"bits_per_dim": bits.mean().item(), "standard_error": error, "images": len(bits)}
