"""A model's evaluation and sampling, timed: trained and packed beside float32."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tribin.cost import evaluation, operation_costs, sampling
from tribin.models import GenerativeModel
from tribin.profiling.device_clock import clock_of
from tribin.profiling.model.agreement import check_twins
from tribin.profiling.model.arms import arms_of, random_images
from tribin.profiling.model.layer_times import layer_records, layer_seconds
from tribin.profiling.prediction import predicted_seconds
from tribin.profiling.result import Entry, Result
from tribin.profiling.timing import ROUNDS, Contender, Race, run_races

__all__ = ["arms_of", "profile_model"]

BATCHES = 4
"""Of images, which take turns."""


class Problem(NamedTuple):
    """What every arm computes.

    Attributes:
        name: in the result.
        images: how many.
        runs: what a model does, as functions on different images.
        counted: the same for `operation_costs`.
    """

    name: str
    images: int
    runs: Callable[[GenerativeModel], list[Callable[[], Tensor]]]
    counted: Callable[[GenerativeModel], Tensor]


def profile_model(
    arms: Mapping[str, GenerativeModel],
    device: torch.device,
    *,
    batch_sizes: Sequence[int],
    ceilings: Mapping[str, float],
    rounds: int = ROUNDS,
    settings: Mapping[str, Any] | None = None,
    memory: Mapping[str, int] | None = None,
    progress: Callable[[str], None] = lambda problem: None,
) -> Result:
    """Time the evaluation of random images, one draw of each one's density, and sampling.

    The problems are ``"evaluate, batch 16"``, ``"sample, batch 16"`` and so on, the contenders the
    arms. On a GPU float32 is float32, not tf32. Operations and bytes are 0 where they depend on
    values. The details have

    - ``"predicted"``: by problem and arm, the seconds of `predicted_seconds`, or None;
    - ``"layers"``: by arm, for the first problem, the list of `layer_records`;
    - ``"memory"``: what is given; not there without.

    Args:
        arms: of one architecture, as `arms_of` gives them, on the device.
        device: where they compute.
        batch_sizes: images at a time; the layers are those of the first.
        ceilings: of `Result`.
        rounds: how often each arm has its turn, at least 2.
        settings: of `Result`; batch sizes and rounds join them.
        memory: bytes, of `tribin.profiling.model.memory.peak_memory_of_arms` at the first batch
            size.
        progress: called with a problem's name before each of its rounds.

    Raises:
        WrongResultError: if a packed arm's density is not that of the arm it is packed from; before
            anything is timed.
    """
    batch_sizes = list(dict.fromkeys(batch_sizes))
    problems = list(_problems(batch_sizes))
    costs = {
        problem.name: {arm: operation_costs(model, problem.counted) for arm, model in arms.items()}
        for problem in problems
    }
    races = [Race(problem.name, partial(_contenders, arms, problem)) for problem in problems]
    first = problems[0]
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        check_twins(arms)
        timings = run_races(races, device, rounds=rounds, progress=progress)
        layers = {
            arm: layer_seconds(model, first.runs(model)[0], clock_of(device))
            for arm, model in arms.items()
        }
    details: dict[str, Any] = {
        "predicted": {
            name: {arm: predicted_seconds(of_arm, ceilings) for arm, of_arm in by_arm.items()}
            for name, by_arm in costs.items()
        },
        "layers": {
            arm: layer_records(model, layers[arm], costs[first.name][arm], ceilings)
            for arm, model in arms.items()
        },
    }
    if memory is not None:
        details["memory"] = dict(memory)
    return Result.of_now(
        "model",
        device,
        {**(settings or {}), "batch_sizes": batch_sizes, "rounds": rounds},
        ceilings,
        [
            Entry.of_costs(
                problem.name,
                arm,
                timings[problem.name, arm],
                costs[problem.name][arm] or (),
                problem.images,
            )
            for problem in problems
            for arm in arms
        ],
        details,
    )


def _problems(batch_sizes: Sequence[int]) -> Iterator[Problem]:
    for size in batch_sizes:
        yield Problem(
            f"evaluate, batch {size}", size, partial(_evaluations, size), evaluation(size)
        )
        yield Problem(f"sample, batch {size}", size, partial(_samples, size), sampling(size))


def _evaluations(batch_size: int, model: GenerativeModel) -> list[Callable[[], Tensor]]:
    return [partial(model.log_weight, random_images(model, batch_size)) for _ in range(BATCHES)]


def _samples(batch_size: int, model: GenerativeModel) -> list[Callable[[], Tensor]]:
    return [partial(model.sample, batch_size)]


def _contenders(arms: Mapping[str, GenerativeModel], problem: Problem) -> list[Contender]:
    return [Contender(arm, problem.runs(model), captured=False) for arm, model in arms.items()]
