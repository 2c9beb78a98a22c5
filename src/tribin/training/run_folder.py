"""The folder of one run, and what its recipe stands for: the model and the images."""

import json
import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from tribin.atomic_file import write_atomically
from tribin.data import ImageSplits, image_format, load_images
from tribin.distributed import first_of_each_host_first
from tribin.errors import InputError
from tribin.models import MODELS, GenerativeModel
from tribin.provenance import provenance
from tribin.recipe import Recipe, dump_recipe, load_recipe
from tribin.tracking.progress import print_line
from tribin.training.checkpoint import Checkpoint, CheckpointStore

RECIPE = "recipe.yaml"
PROVENANCE = "provenance.json"


@dataclass(frozen=True)
class RunFolder:
    """A run on disk: ``recipe.yaml``, ``provenance.json``, ``metrics.jsonl``, ``checkpoints/`` …

    Attributes:
        path: the folder.
        recipe: resolved; the file is itself a valid recipe.
    """

    path: Path
    recipe: Recipe

    @classmethod
    def create(cls, path: Path, recipe: Recipe, device: torch.device) -> "RunFolder":
        """Make the folder of a new run.

        Raises:
            InputError: if it exists or cannot be made.
        """
        check_new(path)
        try:
            path.mkdir(parents=True)
            _fill(path, recipe, device)
        except OSError as error:
            raise InputError(f"{path} cannot be created: {error.strerror}") from error
        return cls(path, recipe)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open the folder of a run.

        Raises:
            InputError: if it is none, or its recipe has faults.
        """
        if not is_run(path):
            raise InputError(f"{path} is no run folder: it holds no {RECIPE}")
        return cls(path, load_recipe(path / RECIPE))

    @cached_property
    def checkpoints(self) -> CheckpointStore:
        """The run's checkpoints: one store, which knows what is still being written."""
        return CheckpointStore(self.path / "checkpoints", self.recipe.checkpoints.keep)

    def provenance(self) -> dict[str, Any]:
        """What `tribin.provenance` knew when the run was created; empty if that is lost."""
        try:
            record: dict[str, Any] = json.loads((self.path / PROVENANCE).read_bytes())
        except (OSError, ValueError):
            return {}
        return record

    def newest_checkpoint(self) -> Checkpoint:
        """The newest intact checkpoint; damaged ones are reported on the terminal.

        Raises:
            InputError: if there is none.
        """
        checkpoint = self.checkpoints.newest_intact(print_line)
        if checkpoint is None:
            raise InputError(f"{self.path} holds no checkpoint yet")
        return checkpoint


def _fill(path: Path, recipe: Recipe, device: torch.device) -> None:
    record = json.dumps(provenance(device), indent=2) + "\n"
    try:
        for folder in ("samples", "reconstructions"):
            (path / folder).mkdir()
        write_atomically(path / RECIPE, dump_recipe(recipe).encode())
        write_atomically(path / PROVENANCE, record.encode())
    except OSError:
        shutil.rmtree(path, ignore_errors=True)  # what is neither a run nor a free name
        raise


def is_run(path: Path) -> bool:
    """Whether the folder holds a run."""
    return os.path.isfile(path / RECIPE)


def check_new(path: Path) -> None:
    """Raise an InputError if a new run can't have this folder."""
    if os.path.lexists(path):
        raise InputError(
            f"{path} exists; name another folder with --run-dir, "
            f"or go on with the run in it by `tribin resume {path}`"
        )


def build_model(recipe: Recipe) -> GenerativeModel:
    """The recipe's model, with the weights that torch's generator gives it.

    Raises:
        InputError: if the model can't have images of the data's shape.
    """
    form = image_format(recipe.data.name, recipe.data.image_shape, recipe.data.levels)
    return MODELS[recipe.model.name](recipe.model.config(), form.shape, form.levels)


def load_data(recipe: Recipe, path: Path | None = None) -> ImageSplits:
    """The recipe's images.

    Args:
        recipe: the recipe.
        path: where they are, in place of the recipe's data.path.

    Raises:
        InputError: if they can't be had, or are not what the recipe says.
    """
    data = recipe.data
    with first_of_each_host_first():
        images = load_images(
            data.name, path or data.path, data.image_shape, data.levels, data.validation_images
        )
    if len(images.test) < 2:
        raise InputError(f"data: {images.source}; a standard error takes at least 2 test images")
    return images


def default_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
