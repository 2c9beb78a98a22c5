"""A short training run: as many steps of a recipe as fit into its time."""

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

from benchmarks.gpu.recipes import build_model
from tribin.errors import NonFiniteError
from tribin.models import GenerativeModel
from tribin.nn import initialize_from_data
from tribin.training.optimizer import build_optimizer, set_learning_rate
from tribin.training.step import train_step

STEPS_A_LINE = 10

WARM_UP_STEPS = 5
"""Not counted in the rate: kernels are compiled and memory is allocated in them."""

SHARE_FOR_EVALUATION = 0.15
"""Of a run's time."""


def train(
    recipe: SimpleNamespace,
    images: tuple[Tensor, Tensor],
    device: torch.device,
    curve: Path,
    *,
    seconds: float,
    steps: int | None = None,
) -> dict[str, Any]:
    """Train a new model and evaluate it.

    Args:
        recipe: as `read_recipe` gives it.
        images: to train on, and held out, uint8 [N, C, H, W].
        device: where.
        curve: file for the loss, a JSON line for every few steps.
        seconds: for all of it.
        steps: at most so many.

    Returns:
        What was measured: images seen, images a second of training, peak bytes of the GPU's memory,
        and bits/dim on the held-out images with its standard error, by one draw of the bound.

    Raises:
        NonFiniteError: if a step or the density of an image is not finite.
    """
    end = time.monotonic() + (1 - SHARE_FOR_EVALUATION) * seconds
    train_images, held_out = (part.to(device) for part in images)
    torch.manual_seed(recipe.seed)
    model = build_model(recipe).to(device)
    initialize_from_data(model.eval(), train_images[: recipe.training.initialization_images])
    moments: list[tuple[int, float]] = []
    with curve.open("w", buffering=1, encoding="utf-8") as file:
        for line in _losses(model, train_images, recipe):
            moments.append((line["images_seen"], time.monotonic()))
            if len(moments) % STEPS_A_LINE == 1:
                file.write(json.dumps(line) + "\n")
            if len(moments) == steps or moments[-1][1] > end:
                break
    on_gpu = device.type == "cuda"
    return {
        "images_seen": moments[-1][0],
        "images_per_second": images_per_second(moments),
        "peak_memory_bytes": torch.cuda.max_memory_allocated(device) if on_gpu else None,
        **bits_per_dim(model.eval(), held_out, recipe.evaluation.batch_size),
    }


def _losses(
    model: GenerativeModel, images: Tensor, recipe: SimpleNamespace
) -> Iterator[dict[str, Any]]:
    """Take steps without end; after each, how many images were seen, and loss and bits/dim."""
    typed = cast(Any, recipe)
    optimizer = build_optimizer(model, typed)
    images_seen = 0
    for step, batch in enumerate(_batches(images, recipe.training.batch_size, recipe.seed)):
        set_learning_rate(optimizer, typed, images_seen)
        torch.manual_seed(recipe.seed + step)
        result = train_step(model.train(), optimizer, batch, typed)
        images_seen += len(batch)
        if not result.finite:
            raise NonFiniteError(f"{result} after {images_seen:,} images")
        values = {name: result.metrics[name].item() for name in ("loss", "bits_per_dim")}
        yield {"images_seen": images_seen, **values}


def _batches(images: Tensor, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Batches of epoch after epoch, each in an order of its own; all have the same size."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(images), generator=generator).to(images.device)
        for indices in order.split(batch_size):
            if len(indices) == min(batch_size, len(images)):
                yield images[indices]


def images_per_second(moments: list[tuple[int, float]]) -> float | None:
    """The rate after the warm-up, from images seen and seconds at the end of each step.

    None for a run that is over before it.
    """
    if len(moments) <= WARM_UP_STEPS:
        return None
    (first_images, start), (last_images, end) = moments[WARM_UP_STEPS - 1], moments[-1]
    return (last_images - first_images) / (end - start)


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
        raise NonFiniteError(f"the density of one of {len(images):,} held-out images is not finite")
    error = bits.std().item() / math.sqrt(len(bits))
    return {"bits_per_dim": bits.mean().item(), "standard_error": error, "images": len(bits)}
