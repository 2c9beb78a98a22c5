"""The kernels stages: what is timed in each, and what becomes of it where something is wrong."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from benchmarks.gpu.recipes import build_model, read_recipe
from tribin.profiling.kernels.problem import Problem
from tribin.profiling.kernels.problems import problems_of
from tribin.profiling.result import Result

PARTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "w1a1_forward": ("w1a1", ("binary_conv2d_w1a1", "packed_conv2d")),
    "w1a1_backward": ("w1a1", ("binary_conv2d_w1a1_backward",)),
    "w1a32": ("w1a32", ("binary_conv2d", "binary_conv2d_backward", "packed_conv2d")),
}
"""By stage, the recipe's precision and which ops of its layers are timed."""

LINEAR = {
    "packed_linear": ("8192x8192:8192,signs", "1x8192:8192", "16x8192:8192"),
    "binary_linear_w1a1": ("8192x8192:8192",),
    "binary_linear": ("1x8192:8192", "16x8192:8192", "8192x8192:8192"),
}
TINY_LINEAR = {"packed_linear": ("16x64:32,signs",), "binary_linear": ("1x64:32",)}

Profile = Callable[[Sequence[Problem]], Result]


def layer_problems(model: str, part: str, *, tiny: bool) -> list[Problem]:
    """The ops of a model's layers, at the recipe's batch size, that a stage times.

    Of a tiny model, one problem for each op.
    """
    precision, ops = PARTS[part]
    recipe = read_recipe(model, precision, tiny=tiny)
    with torch.device("meta"):
        built = build_model(recipe)
    found = [one for one in problems_of(built, recipe.training.batch_size) if one.op in ops]
    return list({one.op: one for one in found}.values()) if tiny else found


def linear_problems(*, tiny: bool) -> list[Problem]:
    """Matrix products."""
    shapes = TINY_LINEAR if tiny else LINEAR
    return [Problem.parse(op, text) for op, texts in shapes.items() for text in texts]


def profile_what_works(
    problems: Sequence[Problem], profile: Profile
) -> tuple[Result | None, list[str]]:
    """Profile problems together, or one by one where one of them would take the others with it.

    Returns:
        What could be timed, and what was wrong with the rest, a line each.
    """
    try:
        return profile(problems), []
    except Exception:  # wrong, or too large for the device: the others may be neither
        traceback.print_exc()
    results, faults = [], []
    for problem in problems:
        try:
            results.append(profile([problem]))
        except Exception as error:
            faults.append(f"{problem.name}: {type(error).__name__}: {error}")
    return _merged(results), faults


def _merged(results: Sequence[Result]) -> Result | None:
    if not results:
        return None
    details: dict[str, Any] = {}
    for result in results:
        for key, value in result.details.items():
            details.setdefault(key, {}).update(value)
    entries = [entry for result in results for entry in result.entries]
    return replace(results[0], entries=entries, details=details)
