"""The phases of a training step, what it computes, and what it keeps in memory."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from tribin.cost import OperationCost, operation_costs
from tribin.errors import NonFiniteError
from tribin.models import GenerativeModel
from tribin.profiling.device_clock import clock_of
from tribin.profiling.prediction import predicted_seconds
from tribin.profiling.result import Entry, Result
from tribin.profiling.step.saved_activations import saved_activations
from tribin.profiling.step.training_steps import TrainingSteps, seconds_by_phase
from tribin.profiling.timing import ROUNDS, timing
from tribin.training.step import backward, forward

if TYPE_CHECKING:
    from tribin.recipe import Recipe

STEP = "step"
"""The problem that is a whole step; the others are its phases and what is in none of them."""

SECONDS = 1.0
"""How long a turn lasts at least: long enough for a lone recipe, between whose turns nothing else
runs, to see the machine's speed drift."""

Turn = dict[str, list[float]]
"""The seconds of each problem's samples."""


@dataclass(frozen=True)
class StepArm:
    """One way to train.

    Attributes:
        model: gets moved to the device, initialized from data, and trained on noise.
        recipe: its sections ``optimizer`` and ``training``; any object with their attributes does.
    """

    model: GenerativeModel
    recipe: Recipe


def profile_step(
    arms: Mapping[str, StepArm],
    device: torch.device,
    *,
    batch_size: int,
    ceilings: Mapping[str, float],
    rounds: int = ROUNDS,
    settings: Mapping[str, Any] | None = None,
) -> Result:
    """Time training steps on random images, arm by arm in turns.

    The problem ``"step"`` is a whole step that logs nothing, timed over several without waiting for
    the device in between. The phases are timed in steps of their own, which log: on a GPU these
    wait wherever a phase begins and ends, so that they take longer. ``"other"`` is what such a step
    does in no phase.

    The result's details have, by arm,

    - ``"operations"``: multiplications and additions of a step by what is multiplied, as in
      `tribin.cost.OperationCost.arithmetic`; none where the model's run depends on values;
    - ``"predicted"``: what forward and backward pass take by the cost model and the ceilings,
      seconds, see `tribin.profiling.prediction`; None where that is not known;
    - ``"saved"``: what the forward pass of a micro-batch keeps for the backward pass, layer by
      layer, the fields of `tribin.profiling.step.saved_activations.SavedActivations`;
    - ``"peak_memory"``: on a GPU, bytes that a step takes at most beside what the arm holds between
      steps, weights and optimizer state.

    Args:
        arms: by name.
        device: where to train.
        batch_size: images a step.
        ceilings: of the result.
        rounds: how often each arm has its turn, at least 2.
        settings: of the result; batch size and rounds join them.

    Raises:
        NonFiniteError: if a loss or gradient is not finite.
    """
    runs = {
        name: TrainingSteps(arm.model, arm.recipe, device, batch_size) for name, arm in arms.items()
    }
    for name, steps in runs.items():
        with _naming(name):
            steps.take(logs=True)
    costs = {name: _costs(steps) for name, steps in runs.items()}
    details = {
        "operations": {name: _operations(of_arm) for name, of_arm in costs.items()},
        "predicted": {
            name: predicted_seconds(of_arm or None, ceilings) for name, of_arm in costs.items()
        },
        "saved": {name: _saved(steps) for name, steps in runs.items()},
        "peak_memory": {name: _peak_memory(steps) for name, steps in runs.items()}
        if device.type == "cuda"
        else {},
    }
    turns: dict[str, list[Turn]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, steps in runs.items():
            with _naming(name):
                turns[name].append(_turn(steps))
    entries = [
        entry for name in runs for entry in _entries(name, turns[name], batch_size, costs[name])
    ]
    settings = {**(settings or {}), "batch_size": batch_size, "rounds": rounds}
    return Result.of_now("step", device, settings, ceilings, entries, details)


@contextmanager
def _naming(arm: str) -> Iterator[None]:
    try:
        yield
    except NonFiniteError as error:
        raise NonFiniteError(f"{arm}: {error}") from error


def _turn(steps: TrainingSteps) -> Turn:
    """Whole steps for a while, and as many phase by phase."""
    now = clock_of(steps.device)
    count = 0
    start = now()
    while count == 0 or time.perf_counter() - start < SECONDS:
        steps.take()
        count += 1
    whole = (now() - start) / count
    phased = [seconds_by_phase(lambda: steps.take(logs=True), now) for _ in range(count)]
    return {STEP: [whole], **{name: [step[name] for step in phased] for name in phased[0]}}


def _entries(
    arm: str, turns: Sequence[Turn], batch_size: int, costs: Sequence[OperationCost]
) -> Iterator[Entry]:
    for problem in turns[0]:
        clocked = timing([turn[problem] for turn in turns])
        if problem != STEP:
            yield Entry(problem, arm, clocked)
            continue
        operations = _operations(costs)
        yield Entry(
            STEP,
            arm,
            clocked,
            operations=sum(operations.values()),
            bytes=sum(cost.bytes for cost in costs),
            arithmetic=next(iter(operations)) if len(operations) == 1 else None,  # no one ceiling
            images=batch_size,
        )


def _costs(steps: TrainingSteps) -> list[OperationCost]:
    """Of forward and backward pass; none where they depend on values."""
    shape = (steps.batch_size, *steps.model.image_shape)
    costs = operation_costs(
        steps.model,
        lambda copied: backward(copied, torch.zeros(shape, dtype=torch.uint8), steps.recipe),
        training=True,
    )
    return costs or []


def _operations(costs: Sequence[OperationCost]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for cost in costs:
        if cost.arithmetic is not None:
            counts[cost.arithmetic] += 2 * cost.multiply_adds
    return dict(counts)


def _saved(steps: TrainingSteps) -> list[dict[str, Any]]:
    images = steps.images[: steps.batch_size].chunk(steps.recipe.training.accumulation)[0]
    layers = saved_activations(steps.model, lambda: forward(steps.model, images, steps.recipe))
    return [asdict(layer) for layer in layers]


def _peak_memory(steps: TrainingSteps) -> int:
    torch.cuda.reset_peak_memory_stats(steps.device)
    before = torch.cuda.memory_allocated(steps.device)
    steps.take()
    return torch.cuda.max_memory_allocated(steps.device) - before
