"""Which module is running, against the order of calls by hand."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tribin.running_module import RunningModule


class Reports(nn.Module):
    """Calls a function between the modules inside it."""

    def __init__(self, report: Callable[[], None], *inner: nn.Module) -> None:
        super().__init__()
        self.report = report
        self.inner = nn.ModuleList(inner)

    def forward(self, x: Tensor) -> Tensor:
        self.report()
        for module in self.inner:
            x = module(x)
            self.report()
        return x


def test_the_innermost_module_that_has_not_returned() -> None:
    seen: list[str] = []
    shared = Reports(lambda: seen.append(running.name))
    model = Reports(
        lambda: seen.append(running.name),
        shared,
        Reports(lambda: seen.append(running.name), shared),
    )
    with RunningModule(model) as running:
        assert running.name == ""
        model(torch.zeros(1))
        model.inner[1](torch.zeros(1))
        assert running.name == ""
    # What is there twice has its first name.
    within = ["inner.1", "inner.0", "inner.1"]
    assert seen == ["", "inner.0", "", *within, "", *within]


def test_whoever_ran_is_left_when_another_takes_over() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Tanh()))
    left: list[str] = []
    with RunningModule(model, left.append):
        model(torch.zeros(1, 2))
    assert left == ["", "", "0", "", "1", "1.0", "1", "", ""]


def test_the_hooks_go_even_when_the_model_fails() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), RunningModule(model):
        model(torch.zeros(1, 3))
    assert not any(x._forward_hooks or x._forward_pre_hooks for x in model.modules())
