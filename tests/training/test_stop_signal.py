"""A run that a signal stops saves its state, exits with 75, and goes on bit for bit."""

import itertools
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.runs import TINY, metrics, tensor_files, tiny_recipe, tribin

from tribin.errors import StoppedError
from tribin.models.resnet_vae import ResNetVAE
from tribin.training import trainer
from tribin.training.stop_signal import SIGNALS, StopSignal
from tribin.training.trainer import train

SHORT = (
    "training.images=120",
    "checkpoints.every_images=32",
    "samples.every_images=24",
    "evaluation.every_images=24",
)


@pytest.fixture(scope="module")
def uncut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "uncut"
    train(tiny_recipe(*SHORT), run_dir)
    return run_dir


def assert_stops_and_resumes(
    patch: pytest.MonkeyPatch, owner: Any, name: str, call: int, uncut: Path, run_dir: Path
) -> None:
    """A signal comes in the n-th call of ``owner.name``, counted from 0."""
    calls, original = itertools.count(), getattr(owner, name)

    def signalled(*arguments: Any, **options: Any) -> Any:
        if next(calls) == call:
            os.kill(os.getpid(), SIGNALS[call % 3])
        return original(*arguments, **options)

    handlers = [signal.getsignal(number) for number in SIGNALS]
    patch.setattr(owner, name, signalled)
    stopped = tribin("train", TINY, *SHORT, "--run-dir", run_dir)
    patch.undo()
    assert stopped.exit_code == 75
    last = f"tribin: stopped by {SIGNALS[call % 3].name}; go on by `tribin resume {run_dir}`"
    assert stopped.stderr.splitlines()[-1] == last
    assert [signal.getsignal(number) for number in SIGNALS] == handlers
    assert not (run_dir / "summary.json").exists()
    assert tribin("resume", run_dir).exit_code == 0
    assert tensor_files(run_dir, 120) == tensor_files(uncut, 120)
    assert metrics(run_dir) == metrics(uncut)
    assert (run_dir / "summary.json").read_bytes() == (uncut / "summary.json").read_bytes()
    for folder in ("samples", "reconstructions"):
        images = {path.name: path.read_bytes() for path in (run_dir / folder).iterdir()}
        assert images == {path.name: path.read_bytes() for path in (uncut / folder).iterdir()}


@pytest.mark.parametrize("step", [0, 2, 3, 7, 14])
def test_in_a_step(uncut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Before there is a checkpoint, where samples are due, on a checkpoint, and at the end."""
    arguments = (trainer, "train_step", step, uncut, tmp_path / "run")
    assert_stops_and_resumes(monkeypatch, *arguments)


@pytest.mark.parametrize("call", [0, 1, 3, 20])
def test_in_an_evaluation(
    uncut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    arguments = (ResNetVAE, "log_weight", call, uncut, tmp_path / "run")
    assert_stops_and_resumes(monkeypatch, *arguments)


@pytest.mark.parametrize("call", [0, 2, 5])
def test_while_samples_are_drawn(
    uncut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    arguments = (ResNetVAE, "sample", call, uncut, tmp_path / "run")
    assert_stops_and_resumes(monkeypatch, *arguments)


def test_in_the_initialization(
    uncut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (trainer, "initialize_from_data", 0, uncut, tmp_path / "run")
    assert_stops_and_resumes(monkeypatch, *arguments)


def test_a_second_signal_has_its_usual_effect() -> None:
    stop_signal = StopSignal()
    with stop_signal.listening():
        stop_signal.check()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert {signal.getsignal(number) for number in SIGNALS} == {signal.SIG_DFL}
        with pytest.raises(StoppedError, match="stopped by SIGUSR1"):
            stop_signal.check()
