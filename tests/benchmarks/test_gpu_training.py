"""The campaign's training runs: they train, repeat, measure what they say, and end in time."""

import json
import math
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from benchmarks.gpu import training
from benchmarks.gpu.recipes import read_recipe
from benchmarks.gpu.training import WARM_UP_STEPS, bits_per_dim, images_per_second, train
from torch import Tensor

from tribin.errors import NonFiniteError
from tribin.evaluation import evaluate
from tribin.models import ResNetVAE, ResNetVAEConfig
from tribin.training.step import StepResult, train_step

CPU = torch.device("cpu")


@pytest.fixture
def recipe() -> SimpleNamespace:
    recipe = read_recipe("resnet_vae", "w1a1", tiny=True)
    recipe.image_shape = [1, 4, 4]
    recipe.levels = 4
    recipe.optimizer.learning_rate = 1e-2
    return recipe


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    """Of one value, which is quickly learnt."""
    image = torch.full((20, 1, 4, 4), 2, dtype=torch.uint8)
    return image[:16], image[16:]


def run(recipe: SimpleNamespace, images: Any, folder: Path, steps: int) -> list[dict[str, Any]]:
    result = train(recipe, images, CPU, folder / "curve", seconds=600, steps=steps)
    return [*map(json.loads, (folder / "curve").read_text().splitlines()), result]


def test_it_trains(recipe: SimpleNamespace, images: Any, tmp_path: Path) -> None:
    first, *_, last, result = run(recipe, images, tmp_path, 61)
    assert (first["images_seen"], last["images_seen"]) == (4, 4 * 61)
    assert last["loss"] < 0.7 * first["loss"]
    assert result["images_seen"] == 4 * 61
    assert result["images"] == 4
    assert result["bits_per_dim"] < first["bits_per_dim"]
    assert result["images_per_second"] > 0
    assert result["peak_memory_bytes"] is None


def test_a_run_repeats(recipe: SimpleNamespace, images: Any, tmp_path: Path) -> None:
    first, second = (run(recipe, images, tmp_path, 12) for _ in range(2))
    assert first[:-1] == second[:-1]
    assert first[-1]["bits_per_dim"] == second[-1]["bits_per_dim"]


def test_the_noise_of_a_step_is_its_own(
    recipe: SimpleNamespace, images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = []

    def seen(*arguments: Any) -> StepResult:
        seeds.append(torch.initial_seed())
        return train_step(*arguments)

    monkeypatch.setattr(training, "train_step", seen)
    run(recipe, images, tmp_path, 5)
    assert seeds == [recipe.seed + step for step in range(5)]


def test_it_ends_in_time(recipe: SimpleNamespace, images: Any, tmp_path: Path) -> None:
    start = time.monotonic()
    result = train(recipe, images, CPU, tmp_path / "curve", seconds=0)
    assert result["images_seen"] == 4  # one step, however little time there is
    assert result["images_per_second"] is None
    assert time.monotonic() - start < 60


def test_a_step_that_is_not_finite_ends_it(
    recipe: SimpleNamespace, images: Any, tmp_path: Path
) -> None:
    recipe.optimizer.learning_rate = 1e30
    recipe.optimizer.final_learning_rate = 1e30
    with pytest.raises(NonFiniteError, match="images"):
        run(recipe, images, tmp_path, 20)


def test_the_rate_is_that_after_the_warm_up() -> None:
    slow = [(10 * (i + 1), 100.0 * i) for i in range(WARM_UP_STEPS)]
    images, seconds = slow[-1]
    fast = [(images + 10 * i, seconds + 0.5 * i) for i in range(1, 9)]
    assert images_per_second(slow) is None
    assert images_per_second([*slow, *fast]) == pytest.approx(20)


def test_bits_per_dim_are_those_of_the_evaluation() -> None:
    torch.manual_seed(0)
    config = ResNetVAEConfig(width=4, latent_layers=1, latent_channels=2, extra_blocks=0)
    model = ResNetVAE(config, (1, 4, 4), 4).eval()
    images = torch.randint(0, 4, (64, 1, 4, 4), dtype=torch.uint8)
    ours, theirs = bits_per_dim(model, images, 16), evaluate(model, images, batch_size=16)
    assert ours["images"] == theirs.images
    # of other noise
    error = math.hypot(ours["standard_error"], theirs.standard_error)
    assert abs(ours["bits_per_dim"] - theirs.bits_per_dim) < 4 * error
    assert ours["standard_error"] == pytest.approx(theirs.standard_error, rel=0.3)
