"""Predicted seconds, by hand."""

import pytest

from tribin.cost import OperationCost
from tribin.profiling.prediction import predicted_seconds

CEILINGS = {"copy": 10.0, "float32": 4.0, "bit": 100.0}


def cost(multiply_adds: int, size: int, arithmetic: str | None) -> OperationCost:
    return OperationCost("", "aten::something", multiply_adds, size, arithmetic)


@pytest.mark.parametrize(
    ("costs", "seconds"),
    [
        ([], 0.0),
        ([cost(0, 30, None)], 3.0),
        ([cost(8, 30, "float32")], 4.0),  # bound by arithmetic
        ([cost(8, 30, "bit")], 3.0),  # bound by memory
        ([cost(8, 30, "float32"), cost(8, 30, "bit"), cost(0, 5, None)], 7.5),
        ([cost(8, 30, "bfloat16")], None),
        (None, None),
    ],
)
def test_each_operation_takes_the_longer_of_its_two_times(
    costs: list[OperationCost] | None, seconds: float | None
) -> None:
    assert predicted_seconds(costs, CEILINGS) == seconds


def test_without_a_bandwidth_nothing_is_known() -> None:
    assert predicted_seconds([cost(8, 30, "bit")], {"bit": 100.0}) is None
