"""What one trained model costs and gives: bits/dim, size, speed and memory."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tribin.evaluation import evaluate
from tribin.inspection import model_size
from tribin.peak_memory import peak_memory
from tribin.seeding import seed_noise
from tribin.trained_model import load_trained_model
from tribin.training.run_folder import default_device

TIMED_BATCHES = 5


@dataclass(frozen=True)
class Settings:
    """What a model is measured with; models that are compared share it.

    Attributes:
        images: test images.
        batch_size: of the evaluation, and of what is timed.
        importance_samples: draws per image of the evaluation.
        seed: of all noise.
    """

    images: int
    batch_size: int
    importance_samples: int
    seed: int


@dataclass(frozen=True)
class Measurement:
    """What was measured of one model.

    Attributes:
        source: the run's folder, or the packed file.
        model: the model's name in recipes.
        weights: ``"raw"`` or ``"ema"``.
        images_seen: training images behind the weights.
        bits_per_dim: as `tribin.evaluation.Evaluation` has it.
        standard_error: of it, over the images.
        parameters: how many.
        binary_parameters: how many of them are shipped as one bit.
        bytes_on_disk: of the packed file, or of the checkpoint's weights.
        evaluated_images_per_second: by one draw of the density of each.
        sampled_images_per_second: at temperature 1.
        peak_memory_bytes: of the process, resident; on a GPU, of the GPU's memory in tensors.
        idle_memory_bytes: how much of it there was before the model was loaded.
    """

    source: str
    model: str
    weights: str
    images_seen: int
    bits_per_dim: float
    standard_error: float
    parameters: int
    binary_parameters: int
    bytes_on_disk: int
    evaluated_images_per_second: float
    sampled_images_per_second: float
    peak_memory_bytes: int
    idle_memory_bytes: int


def measure(source: Path, test: NDArray[np.uint8], settings: Settings) -> Measurement:
    """Measure one model, in this process: memory is that of all it did before, too.

    Args:
        source: the run's folder, or the packed file.
        test: uint8 [N, C, H, W], as many images as the settings say.
        settings: how.

    Raises:
        InputError: if there is no such model.
        NonFiniteError: if the density of an image is not finite.
    """
    device = default_device()
    idle = peak_memory(device)
    trained = load_trained_model(source, device)
    model, images = trained.model, torch.from_numpy(test)
    evaluation = evaluate(
        model,
        images,
        batch_size=settings.batch_size,
        importance_samples=settings.importance_samples,
        seed=settings.seed,
    )
    batch = images[: settings.batch_size].to(device)
    with torch.inference_mode():
        evaluated = _images_per_second(lambda: model.log_weight(batch), settings.seed)
        sampled = _images_per_second(lambda: model.sample(len(batch)), settings.seed)
    size = model_size(model)
    return Measurement(
        source=str(source),
        model=trained.recipe.model.name,
        weights=trained.weights,
        images_seen=trained.provenance["images_seen"],
        bits_per_dim=evaluation.bits_per_dim,
        standard_error=evaluation.standard_error,
        parameters=size.parameters,
        binary_parameters=size.binary_parameters,
        bytes_on_disk=trained.bytes_on_disk,
        evaluated_images_per_second=evaluated,
        sampled_images_per_second=sampled,
        peak_memory_bytes=peak_memory(device),
        idle_memory_bytes=idle,
    )


def _images_per_second(run: Callable[[], Tensor], seed: int) -> float:
    """The median over some runs, after one to warm up; all have the same noise."""
    seconds = []
    for _ in range(1 + TIMED_BATCHES):
        seed_noise(seed, "timing")
        start = time.perf_counter()
        result = run().cpu()  # waits for a GPU
        seconds.append(time.perf_counter() - start)
    return len(result) / statistics.median(seconds[1:])
