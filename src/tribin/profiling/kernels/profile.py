"""The ops beside their baselines: first whether all are right, then how long they take."""

import copy
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from tribin.cost import CostMode, OperationCost
from tribin.profiling.kernels.baselines import BASELINES
from tribin.profiling.kernels.caches import cold_bytes
from tribin.profiling.kernels.candidate import Candidate, Run, UnavailableError
from tribin.profiling.kernels.operands import Expected, Layer
from tribin.profiling.kernels.problem import Problem
from tribin.profiling.kernels.work import expected, layer_of, tribin
from tribin.profiling.result import Entry, Result
from tribin.profiling.timing import ROUNDS, Contender, Race, run_races
from tribin.profiling.wrong_result import WrongResultError
from tribin.running_module import RunningModule

__all__ = ["MOST_COPIES", "WrongResultError", "profile_kernels"]

OURS = "tribin"

MOST_COPIES = 1024
"""Of the operands of a contender, however small they are."""


def profile_kernels(
    problems: Sequence[Problem],
    device: torch.device,
    *,
    dtype: torch.dtype,
    ceilings: Mapping[str, float],
    baselines: Collection[str] | None = None,
    rounds: int = ROUNDS,
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> Result:
    """Check and time each problem, by tribin and by the baselines that apply to it.

    Every contender at every problem is first compared with float64, within a derived bound. Then
    the clock sees it compute from copies of its operands that take turns, together twice the
    last-level cache (but no more than `MOST_COPIES`). On a GPU float32 is float32, not tf32.

    The result's details are

    - ``"skipped"``: by the names of baselines that would apply and can't be had, why;
    - ``"errors"``: by problem and contender, the worst error over its bound.

    Args:
        problems: what to compute.
        device: where.
        dtype: of the activations; the parameters of training ops are float32.
        ceilings: of `Result`.
        baselines: names of `BASELINES`; all by default.
        rounds: how often each contender has its turn, at least 2.
        settings: of `Result`; dtype and rounds join them.
        progress: called with a problem's name before it is checked, and before each of its rounds.

    Raises:
        WrongResultError: if a contender is outside its bound; nothing was timed.
    """
    skipped: dict[str, str] = {}
    names = BASELINES if baselines is None else baselines
    checked = []
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for problem in problems:
            progress(problem.name)
            checked.append(_check(problem, dtype, device, names, skipped))
        races = [
            Race(one.problem.name, partial(_contenders, one, dtype, device)) for one in checked
        ]
        timings = run_races(races, device, rounds=rounds, progress=progress)
    return Result.of_now(
        "kernels",
        device,
        {**(settings or {}), "dtype": str(dtype).removeprefix("torch."), "rounds": rounds},
        ceilings,
        [
            Entry(
                one.problem.name, name, timings[one.problem.name, name],
                2 * one.cost.multiply_adds, one.cost.bytes, arithmetic,
            )
            for one in checked
            for name, arithmetic in one.arithmetic.items()
        ],
        {"skipped": skipped, "errors": {one.problem.name: one.errors for one in checked}},
    )  # fmt: skip


@dataclass(frozen=True)
class _Checked:
    """A problem whose contenders are all right; what they compute on would be too much to keep.

    Attributes:
        problem: the problem.
        cost: of tribin's call.
        arithmetic: of each contender, tribin's first.
        errors: the worst of each contender, over its bound.
    """

    problem: Problem
    cost: OperationCost
    arithmetic: dict[str, str | None]
    errors: dict[str, float]


def _check(
    problem: Problem,
    dtype: torch.dtype,
    device: torch.device,
    names: Iterable[str],
    skipped: dict[str, str],
) -> _Checked:
    """Into `skipped` goes why baselines that apply can't be had."""
    layer = layer_of(problem, dtype, device)
    wanted, ours = expected(problem, layer), tribin(problem, layer)
    arithmetic, errors = {OURS: ours.arithmetic}, {OURS: _error(problem, OURS, ours, wanted)}
    for name in names:
        try:
            candidate = BASELINES[name](problem, layer)
        except UnavailableError as error:
            skipped[name] = str(error)
        else:
            if candidate is not None:
                arithmetic[name] = candidate.arithmetic
                errors[name] = _error(problem, name, candidate, wanted)
    return _Checked(problem, _cost(ours), arithmetic, errors)


def _error(problem: Problem, name: str, candidate: Candidate, wanted: Expected) -> float:
    """The worst error over its bound, which must be at most 1."""
    results = candidate.results(_prepared(candidate)())
    errors = wanted.errors_over_bounds(results, candidate.rounding)
    result, worst = max(errors.items(), key=lambda item: item[1])
    if worst > 1:
        raise WrongResultError(
            f"{problem.name}: {name} is wrong: the error of {result!r} is {worst:.3g} times "
            "what rounding explains"
        )
    return worst


def _cost(candidate: Candidate) -> OperationCost:
    """Of tribin's one call."""
    run = _prepared(candidate)
    with CostMode(RunningModule(nn.Identity())) as counter:
        run()
    (cost,) = counter.costs
    return cost


def _contenders(checked: _Checked, dtype: torch.dtype, device: torch.device) -> list[Contender]:
    layer = layer_of(checked.problem, dtype, device)
    return [
        _contender(name, _candidate(name, checked.problem, layer), device)
        for name in checked.arithmetic
    ]


def _candidate(name: str, problem: Problem, layer: Layer) -> Candidate:
    candidate = tribin(problem, layer) if name == OURS else BASELINES[name](problem, layer)
    assert candidate is not None
    return candidate


def _contender(name: str, candidate: Candidate, device: torch.device) -> Contender:
    copies = min(MOST_COPIES, math.ceil(cold_bytes(device) / _bytes(candidate.operands)))
    return Contender(name, [_prepared(candidate) for _ in range(copies)])


def _prepared(candidate: Candidate) -> Run:
    """On a copy of the operands."""
    return candidate.prepare(*copy.deepcopy(candidate.operands))


def _bytes(operands: Iterable[Any]) -> int:
    """Of tensors, and of the parameters of modules."""
    modules = [operand for operand in operands if isinstance(operand, nn.Module)]
    tensors = [value for value in tree_leaves(operands) if isinstance(value, Tensor)]
    tensors += [parameter for module in modules for parameter in module.parameters()]
    return sum(tensor.nbytes for tensor in tensors)
