"""A model in training: it learns, repeats, sees all images in turn, and notices what is wrong."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from benchmarks.gpu import training
from benchmarks.gpu.recipes import read_recipe
from benchmarks.gpu.training import Training, bits_per_dim, images_per_second
from torch import Tensor

from tribin.errors import NonFiniteError
from tribin.evaluation import evaluate
from tribin.models import ResNetVAE, ResNetVAEConfig
from tribin.training.step import StepResult, train_step


@pytest.fixture
def recipe() -> SimpleNamespace:
    recipe = read_recipe("resnet_vae", "w1a1", tiny=True)
    recipe.image_shape = [1, 4, 4]
    recipe.levels = 4
    recipe.optimizer.learning_rate = 1e-2
    return recipe


IMAGE = torch.full((20, 1, 4, 4), 2, dtype=torch.uint8)
"""Of one value, which is quickly learnt."""

NUMBERED = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 1, 4, 4)


class Steps:
    """Takes steps, and notes what they were given and gave."""

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.images: list[Tensor] = []
        self.results: list[StepResult] = []

    def __call__(self, model: Any, optimizer: Any, images: Tensor, recipe: Any) -> StepResult:
        self.seeds.append(torch.initial_seed())
        self.images.append(images)
        self.results.append(train_step(model, optimizer, images, recipe))
        return self.results[-1]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    steps = Steps()
    monkeypatch.setattr(training, "train_step", steps)
    return steps


def trained(recipe: SimpleNamespace, images: Tensor, until: int) -> Training:
    new = Training(recipe, images)
    new.initialize()
    new.train(until)
    return new


def test_it_trains(recipe: SimpleNamespace) -> None:
    run = trained(recipe, IMAGE, 4 * 100)
    first, second = run.curve
    assert (first["images_seen"], second["images_seen"], run.images_seen) == (200, 400, 400)
    assert second["loss"] < 0.7 * first["loss"]
    assert bits_per_dim(run.model.eval(), IMAGE, 4)["bits_per_dim"] < first["bits_per_dim"]


def test_points_are_means_over_steps(
    recipe: SimpleNamespace, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "POINT_STEPS", 3)
    run = trained(recipe, IMAGE, 30)  # of which the last 2 are a smaller batch
    assert [point["images_seen"] for point in run.curve] == [12, 24, 30]
    for name in ("loss", "bits_per_dim"):
        values = [result.metrics[name].item() for result in steps.results]
        means = [sum(part) / len(part) for part in (values[:3], values[3:6], values[6:])]
        assert [point[name] for point in run.curve] == pytest.approx(means)


def test_the_noise_of_a_step_is_its_own(recipe: SimpleNamespace, steps: Steps) -> None:
    recipe.seed = 7
    trained(recipe, IMAGE, 20)
    assert steps.seeds == [7, 11, 15, 19, 23]


def test_every_epoch_has_all_images_in_an_order_of_its_own(
    recipe: SimpleNamespace, steps: Steps
) -> None:
    recipe.levels = 16
    trained(recipe, NUMBERED, 40)  # in tens, of batches of 4
    numbers = torch.cat(steps.images)[:, 0, 0, 0].view(4, 10)
    assert torch.equal(numbers.sort(dim=1).values, torch.arange(10).expand(4, 10))
    assert len(numbers.unique(dim=0)) == 4


@pytest.mark.parametrize("at", [4, 8, 12])
def test_a_step_that_is_not_finite_ends_it(
    recipe: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    run = Training(recipe, IMAGE)
    run.initialize()
    run.train(at - 4)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    hook = next(run.model.parameters()).register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(NonFiniteError, match=f"after {at} images"):
        run.train(at)
    hook.remove()
    after = run.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_first_of_the_steps_that_are_not_finite_is_named(recipe: SimpleNamespace) -> None:
    recipe.optimizer.learning_rate = recipe.optimizer.final_learning_rate = 1e30
    with pytest.raises(NonFiniteError, match="after 8 images"):
        trained(recipe, IMAGE, 80)


def test_the_rate_is_that_after_the_first_point() -> None:
    points = [
        {"images_seen": 100, "seconds": 50.0},
        {"images_seen": 300, "seconds": 8.0},
        {"images_seen": 350, "seconds": 2.0},
    ]
    assert images_per_second([]) is None
    assert images_per_second(points[:1]) is None
    assert images_per_second(points) == 25


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
