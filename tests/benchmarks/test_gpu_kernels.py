"""What the kernels stages time, and what they keep where one problem is wrong."""

from collections.abc import Sequence

import pytest
import torch
from benchmarks.gpu.bench import RAGGED_LAYERS, ragged_layer
from benchmarks.gpu.kernels import PARTS, layer_problems, linear_problems, profile_what_works

from tribin.profiling.kernels.problem import Problem
from tribin.profiling.result import Entry, Result
from tribin.profiling.timing import Timing


@pytest.mark.parametrize("part", PARTS)
def test_a_part_has_problems_of_each_of_its_ops(part: str) -> None:
    _, ops = PARTS[part]
    problems = layer_problems("resnet_vae", part, tiny=False)
    assert {problem.op for problem in problems} == set(ops)
    assert {problem.x for problem in problems} == {(128, 256, 16, 16)}


def test_a_tiny_model_has_one_problem_of_each_op() -> None:
    _, ops = PARTS["w1a1_forward"]
    problems = layer_problems("resnet_vae", "w1a1_forward", tiny=True)
    assert sorted(problem.op for problem in problems) == sorted(ops)
    assert {problem.x[0] for problem in problems} == {4}


@pytest.mark.parametrize("tiny", [False, True])
def test_linear_problems_are_matrix_products(tiny: bool) -> None:
    assert all(len(problem.x) == 2 for problem in linear_problems(tiny=tiny))


def result_of(problems: Sequence[Problem]) -> Result:
    """As of a profile that can't do 2 rows."""
    if any(problem.x[0] == 2 for problem in problems):
        raise ArithmeticError("two")
    entries = [Entry(problem.name, "tribin", Timing(1, 1, 1, 0, 5)) for problem in problems]
    details = {"errors": {problem.name: {} for problem in problems}, "skipped": {}}
    return Result.of_now("kernels", torch.device("cpu"), {}, {}, entries, details)


def problems_of_rows(*rows: int) -> list[Problem]:
    return [Problem("binary_linear", (count, 8), 4) for count in rows]


def test_what_works_is_profiled_together() -> None:
    problems = problems_of_rows(1, 3)
    result, faults = profile_what_works(problems, result_of)
    assert result is not None
    assert [entry.problem for entry in result.entries] == [problem.name for problem in problems]
    assert faults == []


def test_a_wrong_problem_does_not_take_the_others_with_it() -> None:
    one, two, three = problems_of_rows(1, 2, 3)
    result, faults = profile_what_works([one, two, three], result_of)
    assert result is not None
    assert [entry.problem for entry in result.entries] == [one.name, three.name]
    assert list(result.details["errors"]) == [one.name, three.name]
    assert faults == [f"{two.name}: ArithmeticError: two"]


def test_where_nothing_works_there_is_no_result() -> None:
    result, faults = profile_what_works(problems_of_rows(2, 2), result_of)
    assert result is None
    assert len(faults) == 2


def test_ragged_layers_are_valid_and_varied() -> None:
    layers = [ragged_layer(seed) for seed in range(RAGGED_LAYERS)]
    assert {len(layer.geometry) for layer in layers} == {0, 2}
    assert any(layer.x.shape[0] == 0 for layer in layers)
    assert all(min(layer.grad_y.shape[1:]) > 0 for layer in layers)
