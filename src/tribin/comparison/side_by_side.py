"""Trained models side by side, each measured in a process of its own."""

import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tribin.comparison.measurement import Measurement, Settings, measure
from tribin.errors import InputError, NonFiniteError
from tribin.provenance import provenance
from tribin.recipe import Recipe
from tribin.tracking.progress import print_line
from tribin.trained_model import load_trained_model
from tribin.training.run_folder import default_device, load_data

SHARED = {
    "data.name": None,
    "data.path": "--data",
    "data.image_shape": None,
    "data.levels": None,
    "evaluation.images": "--images",
    "evaluation.batch_size": "--batch-size",
    "evaluation.importance_samples": "--importance-samples",
}
"""What the recipes of a comparison share, and the options that set it for all of them."""


@dataclass(frozen=True)
class Comparison:
    """Models measured on the same images, one after the other on the same machine.

    Attributes:
        data: the image set, as `tribin.data.ImageSplits.source` names it.
        settings: what they were measured with.
        provenance: the machine and the versions, as `tribin.provenance` names them.
        models: in the order in which they were given.
    """

    data: str
    settings: Settings
    provenance: dict[str, str | None]
    models: list[Measurement]


def compare(
    sources: Sequence[Path],
    *,
    images: int | None = None,
    batch_size: int | None = None,
    importance_samples: int | None = None,
    data_path: Path | None = None,
) -> Comparison:
    """Measure runs and packed files on the test images of their data.

    What is not given must be the same in all their recipes. The noise is that of the first one's
    seed; beyond it, bits/dim are those of `tribin evaluate` with the same settings.

    Args:
        sources: at least one.
        images: only the first so many.
        batch_size: images at a time.
        importance_samples: draws per image.
        data_path: where the images are, in place of data.path.

    Raises:
        InputError: if a source is bad, or the recipes differ in what must be the same; before
            anything is measured.
        NonFiniteError: if the density of an image is not finite.
    """
    recipes = [load_trained_model(source, torch.device("cpu")).recipe for source in sources]
    given = {
        "data.path": data_path,
        "evaluation.images": images,
        "evaluation.batch_size": batch_size,
        "evaluation.importance_samples": importance_samples,
    }
    for field in SHARED:
        if given.get(field) is None:
            _check_same(field, sources, recipes)
    section, data = recipes[0].evaluation, load_data(recipes[0], data_path)
    test = data.test[: images or section.images]
    settings = Settings(
        images=len(test),
        batch_size=batch_size or section.batch_size,
        importance_samples=importance_samples or section.importance_samples,
        seed=recipes[0].seed,
    )
    models = [_measure_apart(source, test.numpy(), settings) for source in sources]
    return Comparison(data.source, settings, provenance(default_device()), models)


def _check_same(field: str, sources: Sequence[Path], recipes: Sequence[Recipe]) -> None:
    first, *others = map(attrgetter(field), recipes)
    for source, other in zip(sources[1:], others, strict=True):
        if other != first:
            remedy = f"{SHARED[field]} sets it for all" if SHARED[field] else "it must be the same"
            raise InputError(
                f"{sources[0]} and {source} are not measured alike: {field} is "
                f"{json.dumps(first)} and {json.dumps(other)}; {remedy}"
            )


def _measure_apart(source: Path, test: NDArray[np.uint8], settings: Settings) -> Measurement:
    """Measure in a new process, whose peak of memory is that of this model alone."""
    print_line(f"measuring {source}")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        try:
            return process.submit(measure, source, test, settings).result()
        except NonFiniteError as error:
            raise NonFiniteError(f"{source}: {error}") from None
