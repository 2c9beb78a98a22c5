"""Time and cost of each module, by a clock that the modules themselves advance."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from tribin.cost import OperationCost
from tribin.profiling.model.layer_times import RUNS, layer_records, layer_seconds


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Takes(nn.Module):
    """Takes some seconds before each of the modules inside it, and after the last."""

    def __init__(self, clock: Clock, seconds: float, *inner: nn.Module) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds
        self.inner = nn.ModuleList(inner)

    def forward(self, x: Tensor) -> Tensor:
        for module in self.inner:
            self.clock.now += self.seconds
            x = module(x)
        self.clock.now += self.seconds
        return x


def test_each_module_has_its_own_time_alone() -> None:
    clock = Clock()
    twice = Takes(clock, 3.0)
    model = Takes(clock, 1.0, twice, Takes(clock, 10.0, twice))

    def run() -> None:
        clock.now += 0.5  # outside of all
        model(torch.zeros(1))

    start = clock.now
    seconds = layer_seconds(model, run, clock)
    assert seconds == {"": 3 * 1.0 + 0.5, "inner.0": 2 * 3.0, "inner.1": 2 * 10.0}
    assert sum(seconds.values()) == (clock.now - start) / (1 + RUNS)


def test_the_median_of_runs_after_the_first() -> None:
    clock = Clock()
    model = Takes(clock, 0.0)
    each: Iterator[float] = iter([100.0, 7.0, 50.0, 1.0])

    def run() -> None:
        model.seconds = next(each)
        model(torch.zeros(1))

    assert layer_seconds(model, run, clock) == {"": 7.0}


def cost(module: str, multiply_adds: int, size: int, arithmetic: str | None) -> OperationCost:
    return OperationCost(module, "aten::something", multiply_adds, size, arithmetic)


CEILINGS = {"copy": 10.0, "float32": 2.0}
MODEL = nn.Sequential(nn.Linear(1, 1), nn.Tanh(), nn.Tanh())


def test_records_are_those_of_the_modules_that_ran() -> None:
    costs = [
        cost("0", 40, 100, "float32"), cost("1", 0, 30, None), cost("0", 1, 700, "float32"),
    ]  # fmt: skip
    seconds = {"0": 90.0, "1": 7.0, "": 3.0}
    assert layer_records(MODEL, seconds, costs, CEILINGS) == [
        record("", "Sequential", 3.0, 0.03, 0, 0, 0.0),
        record("0", "Linear", 90.0, 0.9, 82, 800, 2 * 40 / 2 + 700 / 10),
        record("1", "Tanh", 7.0, 0.07, 0, 30, 3.0),
    ]


def test_what_is_not_known_of_a_layer_is_none() -> None:
    (found,) = layer_records(MODEL, {"1": 2.0}, None, CEILINGS)
    assert found == record("1", "Tanh", 2.0, 1.0, None, None, None)
    (found,) = layer_records(MODEL, {"0": 2.0}, [cost("0", 4, 1, "bit")], CEILINGS)
    assert found == record("0", "Linear", 2.0, 1.0, 8, 1, None)


def record(
    name: str, kind: str, seconds: float, share: float, operations: int | None, size: int | None,
    predicted: float | None,
) -> dict[str, object]:  # fmt: skip
    return {
        "name": name, "kind": kind, "seconds": seconds, "share": pytest.approx(share),
        "operations": operations, "bytes": size, "predicted_seconds": predicted,
    }  # fmt: skip
