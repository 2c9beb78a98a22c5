"""A trained model as the commands take it: a run's newest checkpoint, or a packed file."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tribin.errors import InputError
from tribin.evaluation import Evaluation, evaluate
from tribin.models import GenerativeModel
from tribin.nn import pack
from tribin.packed import PackedFormatError, read_packed, restore
from tribin.recipe import Recipe, recipe_from_json
from tribin.training.run_folder import RunFolder, build_model


@dataclass(frozen=True)
class TrainedModel:
    """A model and where it comes from.

    Attributes:
        model: in eval mode.
        recipe: what it was trained by.
        provenance: where the weights come from, JSON: which they are (``weights``, ``"raw"`` or
            ``"ema"``), ``images_seen`` in training, and what `tribin.provenance` knew of the run.
        bytes_on_disk: of the packed file, or of the checkpoint's weights.
    """

    model: GenerativeModel
    recipe: Recipe
    provenance: dict[str, Any]
    bytes_on_disk: int

    @property
    def weights(self) -> str:
        """``"raw"`` or ``"ema"``."""
        weights: str = self.provenance["weights"]
        return weights

    def evaluate(
        self,
        test: Tensor,
        *,
        images: int | None = None,
        batch_size: int | None = None,
        importance_samples: int | None = None,
    ) -> Evaluation:
        """Measure the density of test images, uint8 [N, C, H, W], as the recipe says.

        Args:
            test: the test split.
            images: only the first so many, like the next two in place of the recipe's.
            batch_size: images at a time.
            importance_samples: draws per image.

        Raises:
            NonFiniteError: if the density of an image is not finite.
        """
        section = self.recipe.evaluation
        return evaluate(
            self.model,
            test[: images or section.images],
            batch_size=batch_size or section.batch_size,
            importance_samples=importance_samples or section.importance_samples,
            seed=self.recipe.seed,
        )


def load_trained_model(
    path: Path, device: torch.device, weights: str | None = None, *, as_trained: bool = False
) -> TrainedModel:
    """Load the newest intact checkpoint of a run, or a packed file.

    Args:
        path: the run's folder, or the file.
        device: where to put the model.
        weights: ``"raw"`` or ``"ema"``. By default what a file holds, or a run's average where the
            run keeps one.
        as_trained: a run's model with its latent weights, also where the recipe ships bfloat16
            (``export.half``); otherwise that is what commands measure and draw from.

    Raises:
        InputError: if there is no such model, or not with these weights.
    """
    # os.path is False where Path raises, as for a name too long for a file.
    if os.path.isdir(path):
        return _from_run(path, device, weights, as_trained)
    if os.path.exists(path):
        return _from_file(path, device, weights)
    raise InputError(f"{path} is neither a run folder nor a packed file: there is nothing")


def _from_run(
    path: Path, device: torch.device, weights: str | None, as_trained: bool
) -> TrainedModel:
    run = RunFolder.open(path)
    checkpoint = run.newest_checkpoint()
    weights = weights or ("ema" if checkpoint.holds("ema") else "raw")
    if weights == "ema" and not checkpoint.holds("ema"):
        raise InputError(f"{path} keeps no averaged weights (training.ema_decay is null)")
    name = "ema" if weights == "ema" else "model"
    model = build_model(run.recipe).to(device).eval()
    model.load_state_dict(checkpoint.tensors(name))
    if run.recipe.export.half and not as_trained:
        model = pack(model, half=True)
    provenance = {
        **run.provenance(),
        "images_seen": checkpoint.images_seen,
        "weights": weights,
    }
    return TrainedModel(model, run.recipe, provenance, checkpoint.bytes_of(name))


def _from_file(path: Path, device: torch.device, weights: str | None) -> TrainedModel:
    file = read_packed(path)
    model = restore(file, path)
    recipe = file.header.get("recipe")
    if not isinstance(model, GenerativeModel) or recipe is None:
        raise InputError(f"{path} holds no recipe; `tribin export` writes files with theirs")
    provenance = _provenance(path, file.header.get("provenance"))
    if weights not in (None, provenance["weights"]):
        raise InputError(
            f"{path} holds the {provenance['weights']} weights, not the {weights} ones"
        )
    return TrainedModel(model.to(device), recipe_from_json(recipe), provenance, path.stat().st_size)


def _provenance(path: Path, provenance: Any) -> dict[str, Any]:
    match provenance:
        case {"weights": "raw" | "ema", "images_seen": int()}:
            return dict(provenance)
    raise PackedFormatError(f"{path}: its provenance lacks weights or images_seen")
