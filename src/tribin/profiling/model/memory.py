"""How much memory a model takes that evaluates a batch."""

import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import torch

from tribin.models import GenerativeModel
from tribin.models.generative import ModelClass
from tribin.nn import packed_when_registered
from tribin.peak_memory import peak_memory
from tribin.profiling.model.arms import is_packed, random_images

IMPORTS = "imports"


@dataclass(frozen=True)
class Blueprint:
    """What a model is built from again elsewhere, with other weights.

    Attributes:
        model_class: of the model.
        config: of the model.
        image_shape: channels, height, width.
        levels: number of pixel values.
        packed: whether to build the packed twin, without the other ever being there.
    """

    model_class: ModelClass
    config: Any
    image_shape: tuple[int, int, int]
    levels: int
    packed: bool

    @classmethod
    def of(cls, model: GenerativeModel) -> "Blueprint":
        """That of a model."""
        model_class = cast(ModelClass, type(model))
        return cls(model_class, model.config, model.image_shape, model.levels, is_packed(model))

    def build(self) -> GenerativeModel:
        """The model, in eval mode."""
        if self.packed:
            with packed_when_registered():
                return self._new()
        return self._new()

    def _new(self) -> GenerativeModel:
        return self.model_class(self.config, self.image_shape, self.levels).eval()


def peak_memory_of_arms(
    arms: Mapping[str, GenerativeModel], device: torch.device, batch_size: int
) -> dict[str, int]:
    """Bytes that it takes at most to build each model, with random weights, and evaluate a batch.

    Args:
        arms: by name.
        device: on a CPU, the resident memory of a process for each model; on a GPU, its memory in
            tensors beyond those that are there before.
        batch_size: images.

    Returns:
        By the model's name, after ``"imports"``: what it takes without any model.
    """
    measure = _on_gpu if device.type == "cuda" else _in_a_process
    blueprints = {name: Blueprint.of(model) for name, model in arms.items()}
    return {
        name: measure(blueprint, device, batch_size)
        for name, blueprint in {IMPORTS: None, **blueprints}.items()
    }


def _in_a_process(blueprint: Blueprint | None, device: torch.device, batch_size: int) -> int:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_peak_here, blueprint, device, batch_size).result()


def _peak_here(blueprint: Blueprint | None, device: torch.device, batch_size: int) -> int:
    _evaluate(blueprint, device, batch_size)
    return peak_memory(device)


def _on_gpu(blueprint: Blueprint | None, device: torch.device, batch_size: int) -> int:
    _evaluate(blueprint, device, batch_size)  # libraries keep the workspaces of their first call
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    return _peak_here(blueprint, device, batch_size) - before


@torch.inference_mode()
def _evaluate(blueprint: Blueprint | None, device: torch.device, batch_size: int) -> None:
    if blueprint is not None:
        model = blueprint.build().to(device)
        model.log_weight(random_images(model, batch_size))
