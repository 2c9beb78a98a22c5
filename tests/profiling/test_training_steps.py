"""The steps that a profile takes, and how its clock divides them."""

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
from tests.runs import tiny_recipe

from tribin.errors import NonFiniteError
from tribin.profiling.step.training_steps import TrainingSteps, seconds_by_phase
from tribin.training.optimizer import build_optimizer, learning_rate
from tribin.training.phases import PHASES, phase
from tribin.training.run_folder import build_model
from tribin.training.step import train_step

CPU = torch.device("cpu")


def training_steps(*overrides: str) -> TrainingSteps:
    recipe = tiny_recipe(*overrides)
    return TrainingSteps(build_model(recipe), recipe, CPU, batch_size=8)


class FakeClock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def test_seconds_are_those_of_their_phase() -> None:
    clock = FakeClock()

    def wait(name: str | None, seconds: float) -> None:
        if name is None:
            clock.time += seconds
            return
        with phase(name):
            clock.time += seconds

    def run() -> None:
        wait("data", 1)
        wait(None, 2)
        for _ in range(2):
            wait("forward", 4)
            wait("backward", 8)
        wait(None, 16)
        wait("logging", 32)

    assert seconds_by_phase(run, clock) == {
        "data": 1, "forward": 8, "backward": 16, "clip": 0, "optimizer": 0, "logging": 32,
        "other": 18,
    }  # fmt: skip


def test_the_phases_cover_a_step() -> None:
    """With a clock that ticks once a look, each phase takes a tick, and so does each gap."""
    ticks: Callable[[], float] = itertools.count().__next__
    steps = training_steps()
    seconds = seconds_by_phase(lambda: steps.take(logs=True), ticks)
    assert seconds == {
        "data": 1, "forward": 1, "backward": 1, "clip": 2, "optimizer": 3, "logging": 2,
        "other": 11,
    }  # fmt: skip
    assert [*seconds] == [*PHASES, "other"]


def test_the_steps_are_those_of_the_trainer() -> None:
    """On random rows of images that are more than one batch, at the rates of the schedule."""
    steps = training_steps("optimizer.warmup_images=24", "training.batch_size=8")
    assert steps.images.shape == (64, 1, 8, 8)
    assert steps.images.dtype == torch.uint8
    assert set(steps.images.unique().tolist()) == set(range(17))
    expected = copy.deepcopy(steps.model).train()
    optimizer = build_optimizer(expected, steps.recipe)
    average = [parameter.detach().clone() for parameter in expected.parameters()]
    for step in range(3):
        torch.manual_seed(step)
        steps.take(logs=step == 1)
        torch.manual_seed(step)
        images = steps.images[torch.randint(64, (8,))]
        optimizer.param_groups[0]["lr"] = learning_rate(steps.recipe, 8 * step)
        train_step(expected, optimizer, images, steps.recipe)
        decay = 0.9 if step else 0.0  # the average starts at the first weights
        for mean, parameter in zip(average, expected.parameters(), strict=True):
            mean.lerp_(parameter.detach(), 1 - decay)
    for parameter, other in zip(steps.model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(parameter, other)
    assert steps.average is not None
    for parameter, mean in zip(steps.average.parameters(), average, strict=True):
        torch.testing.assert_close(parameter, mean)


@pytest.mark.parametrize("before", [False, True])
def test_cudnn_is_deterministic_during_a_step_as_in_training(
    monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", before)
    steps, seen = training_steps(), []
    steps.model.register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.deterministic))
    steps.take()
    assert seen == [True]
    assert torch.backends.cudnn.deterministic == before


def test_a_step_that_is_not_finite_is_an_error() -> None:
    steps = training_steps("optimizer={schedule: constant, learning_rate: 1e30}")
    steps.take()
    with pytest.raises(NonFiniteError, match=r"loss .*, gradient norm nan after 16 random images"):
        steps.take()
