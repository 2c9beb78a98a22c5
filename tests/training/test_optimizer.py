"""The learning rate against its formulas, and the optimizer's state by name."""

import math
from itertools import pairwise

import pytest
import torch
from tests.runs import tiny_recipe
from torch import nn

from tribin.training.optimizer import (
    build_optimizer,
    learning_rate,
    load_optimizer_tensors,
    optimizer_tensors,
)

BATCH = 10
IMAGES = 10_000


def rates(*overrides: str) -> list[float]:
    """The learning rate of every step."""
    sizes = (f"training.images={IMAGES}", f"training.batch_size={BATCH}")
    recipe = tiny_recipe(*sizes, "optimizer.warmup_images=0", *overrides)
    return [learning_rate(recipe, images) for images in range(0, IMAGES, BATCH)]


def test_constant() -> None:
    assert rates("optimizer.schedule=constant", "optimizer.learning_rate=3e-3") == [3e-3] * 1000


def test_exponential_falls_each_step_down_to_its_floor() -> None:
    found = rates(
        "optimizer.schedule=exponential",
        "optimizer.learning_rate=2e-3",
        "optimizer.decay=0.99",
        "optimizer.final_learning_rate=5e-4",
    )
    expected, rate = [], 2e-3
    for _ in range(1000):
        expected.append(max(rate, 5e-4))
        rate *= 0.99
    assert found == pytest.approx(expected, rel=1e-12)
    assert found[:2] == pytest.approx([2e-3, 2e-3 * 0.99])
    assert found[137:139] == pytest.approx([2e-3 * 0.99**137, 5e-4])  # log(1/4)/log(0.99) = 137.9
    assert found[-1] == 5e-4


def test_cosine_goes_from_the_rate_to_the_final_rate() -> None:
    found = rates(
        "optimizer.schedule=cosine",
        "optimizer.learning_rate=2e-3",
        "optimizer.final_learning_rate=1e-4",
    )
    assert found[0] == pytest.approx(2e-3)
    assert found[250] == pytest.approx(1e-4 + 1.9e-3 * (1 + math.sqrt(0.5)) / 2)
    assert found[500] == pytest.approx(1.05e-3)
    assert all(later < earlier for earlier, later in pairwise(found))
    recipe = tiny_recipe("optimizer.warmup_images=0", "optimizer.final_learning_rate=1e-4")
    assert learning_rate(recipe, recipe.training.images) == pytest.approx(1e-4)


@pytest.mark.parametrize("schedule", ["constant", "exponential", "cosine"])
@pytest.mark.parametrize("warmup", [1, BATCH, 25 * BATCH + 3, 600 * BATCH])
def test_warm_up_rises_linearly_into_the_schedule(schedule: str, warmup: int) -> None:
    settings = (
        f"optimizer.schedule={schedule}",
        "optimizer.learning_rate=2e-3",
        "optimizer.decay=0.99",
        "optimizer.final_learning_rate=5e-4",
    )
    found = rates(*settings, f"optimizer.warmup_images={warmup}")
    steps = math.ceil(warmup / BATCH)
    rise, slope = found[:steps], 2e-3 / (warmup + BATCH) * BATCH
    assert rise == pytest.approx([slope * (step + 1) for step in range(steps)])
    assert all(0 < rate < 2e-3 for rate in rise)
    # The last rate of the warm-up is less than one of its steps below the schedule's first, 2e-3.
    assert 0 < 2e-3 - rise[-1] <= slope * (1 + 1e-9)
    recipe = tiny_recipe(*settings, f"optimizer.warmup_images={warmup}")
    assert learning_rate(recipe, warmup) == pytest.approx(2e-3)
    assert max(found) <= 2e-3


def test_the_optimizer_is_the_recipes() -> None:
    recipe = tiny_recipe("optimizer.betas=[0.5, 0.75]", "optimizer.epsilon=1e-3")
    optimizer = build_optimizer(nn.Linear(2, 3), recipe)
    (group,) = optimizer.param_groups
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.5, 0.75), 1e-3, 0)


def step(model: nn.Sequential, optimizer: torch.optim.Optimizer, seed: int) -> None:
    torch.manual_seed(seed)
    model[:2](torch.randn(5, 4, 3, 3)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def make_model() -> nn.Sequential:
    """The first weight is channels-last; the last layer gets no gradient, and so has no state."""
    torch.manual_seed(0)
    first = nn.Conv2d(4, 3, 3)
    first.weight.data = first.weight.data.contiguous(memory_format=torch.channels_last)
    return nn.Sequential(first, nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1))


def test_state_by_name_continues_bit_for_bit() -> None:
    recipe = tiny_recipe()
    model, other = make_model(), make_model()
    optimizer = build_optimizer(model, recipe)
    for seed in range(3):
        step(model, optimizer, seed)
    tensors = optimizer_tensors(optimizer, model)
    assert tensors.keys() == {
        f"{layer}.{name}:{quantity}"
        for layer in (0, 1)
        for name in ("weight", "bias")
        for quantity in ("step", "exp_avg", "exp_avg_sq")
    }

    other.load_state_dict(model.state_dict())
    resumed = build_optimizer(other, recipe)
    contiguous = torch.contiguous_format  # as a checkpoint gives them back
    saved = {name: value.clone(memory_format=contiguous) for name, value in tensors.items()}
    load_optimizer_tensors(resumed, other, saved)
    step(model, optimizer, 3)
    step(other, resumed, 3)
    for (name, expected), found in zip(
        optimizer_tensors(optimizer, model).items(),
        optimizer_tensors(resumed, other).values(),
        strict=True,
    ):
        assert torch.equal(expected, found), name
    for expected, found in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(expected, found)
