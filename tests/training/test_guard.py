"""The guard where the device is ahead of the host: it finds what it finds on a CPU, but later."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs import metrics, tensor_files, tiny_recipe

from tribin.errors import NonFiniteError, StoppedError
from tribin.training import guard, trainer
from tribin.training.guard import Guard, TakenStep
from tribin.training.step import StepResult, train_step
from tribin.training.trainer import train

SKIPPING = (
    "training.images=104",
    "training.log_every_images=24",
    "training.non_finite=skip",
    "checkpoints.every_images=40",
    "checkpoints.keep=9",
)


@pytest.fixture
def lag(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Have the host read a flag two steps later."""
    monkeypatch.setitem(guard.LAG, "cpu", 2)
    return monkeypatch


def spoil(
    monkeypatch: pytest.MonkeyPatch, bad: set[int], signalled: int | None = None
) -> list[int]:
    """Give those steps, counted from 0, a NaN as gradient, and one a signal; returns the steps."""
    taken: list[int] = []

    def step(model: Any, *others: Any) -> StepResult:
        taken.append(number := len(taken))
        if number == signalled:
            os.kill(os.getpid(), signal.SIGTERM)
        if number not in bad:
            return train_step(model, *others)
        hook = next(model.parameters()).register_hook(lambda gradient: gradient * torch.nan)
        result = train_step(model, *others)
        hook.remove()
        return result

    monkeypatch.setattr(trainer, "train_step", step)
    return taken


def warnings_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if "warning" in line]


@pytest.mark.parametrize("bad", [{0, 12}, {3, 4, 7}, {1, 2, 5}])
def test_a_run_is_the_same_however_late_the_flags_are_read(
    tmp_path: Path,
    lag: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    bad: set[int],
) -> None:
    found = []
    for name in ("late", "at once"):
        spoil(lag, bad)
        train(tiny_recipe(*SKIPPING), tmp_path / name)
        warnings = warnings_of(capsys)
        for step, line in zip(sorted(bad), warnings, strict=True):
            assert f"after {8 * (step + 1)} images: step skipped" in line
        files = [tensor_files(tmp_path / name, images) for images in (40, 80, 104)]
        found.append((warnings, files, metrics(tmp_path / name)))
        lag.undo()
    assert found[0] == found[1]
    records = [json.loads(line) for line in metrics(tmp_path / "late").splitlines()]
    assert [x["skipped_steps"] for x in records if "loss" in x][-1] == len(bad)


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_what_stops_the_run_is_the_step_that_was_not_finite(
    tmp_path: Path, lag: pytest.MonkeyPatch, policy: str
) -> None:
    recipe = tiny_recipe(
        *SKIPPING, f"training.non_finite={policy}", "training.maximum_skipped_steps=0"
    )
    taken = spoil(lag, {3})
    with pytest.raises(NonFiniteError, match=r"gradient norm nan after 32 images: stopped"):
        train(recipe, tmp_path / "run")
    assert taken[-1] == 4  # after which a checkpoint is due
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_signal_saves_what_was_skipped_until_then(
    tmp_path: Path, lag: pytest.MonkeyPatch
) -> None:
    spoil(lag, {1}, signalled=1)
    with pytest.raises(StoppedError):
        train(tiny_recipe(*SKIPPING), tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "checkpoints/16/manifest.json").read_text())
    assert manifest["skipped_steps"] == 1


def test_the_layer_is_named_before_another_step_is_taken(
    tmp_path: Path, lag: pytest.MonkeyPatch
) -> None:
    taken = spoil(lag, {3})
    recipe = tiny_recipe(*SKIPPING, "training.non_finite=stop")
    with pytest.raises(
        NonFiniteError, match=r"after 32 images: .*; run again, the step was finite"
    ):
        train(recipe, tmp_path / "run", debug_non_finite=True)
    assert taken[-1] == 3


class Watched:
    """A flag that knows whether it was read."""

    is_cuda = False

    def __init__(self, value: bool) -> None:
        self.value, self.read = value, False

    def __bool__(self) -> bool:
        self.read = True
        return self.value


def test_a_flag_is_read_when_it_is_old_enough_or_all_are() -> None:
    flags = [Watched(value) for value in (True, False, True, False)]
    watching, found = Guard(1), []
    for images_seen, flag in enumerate(flags):
        result: Any = StepResult({}, torch.zeros(()), flag)  # type: ignore[arg-type]
        watching.watch(TakenStep(result, torch.zeros(1), images_seen))
        found += watching.not_finite(settle=False)
        assert [each.read for each in flags] == [i < images_seen for i in range(4)]
    assert [step.images_seen for step in found] == [1]
    assert [step.images_seen for step in watching.not_finite(settle=True)] == [3]
    assert not list(watching.not_finite(settle=True))
