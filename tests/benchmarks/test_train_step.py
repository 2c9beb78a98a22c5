"""The suite of training steps: its arms, and the check before its clock starts."""

import pytest
import torch
from benchmarks.train_step import arms_of, check
from tests.runs import FLOWPP, TINY

CPU = torch.device("cpu")


def test_the_arms_of_a_precision_have_the_same_weights_in_both_dtypes() -> None:
    arms = arms_of(str(TINY))
    assert list(arms) == [
        f"{bits} {dtype}"
        for dtype in ("float32", "bfloat16")
        for bits in ("W1A1", "W1A32", "W32A32")
    ]
    for bits in ("W1A1", "W1A32", "W32A32"):
        twins = arms[f"{bits} float32"], arms[f"{bits} bfloat16"]
        assert [twin.recipe.training.autocast for twin in twins] == ["none", "bfloat16"]
        assert {str(twin.recipe.model.config().precision) for twin in twins} == {bits}
        for one, other in zip(*(twin.model.parameters() for twin in twins), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("overrides", [(), (FLOWPP,)])
def test_an_arm_that_computes_something_else_stops_the_suite(overrides: tuple[str, ...]) -> None:
    arms = arms_of(str(TINY), *overrides)
    check(arms, CPU, batch_size=8)
    arms["W1A32 bfloat16"].model.register_forward_hook(
        lambda model, inputs, objective: type(objective)(1.1 * objective.loss, objective.metrics)
    )
    with pytest.raises(SystemExit, match=r"W1A32 bfloat16: loss [\d.]+, in float32 [\d.]+"):
        check(arms, CPU, batch_size=8)
