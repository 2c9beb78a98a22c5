"""Runs so small that a test can train one, and the command line as the tests call it."""

import itertools
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tribin.cli import main
from tribin.recipe import Recipe, load_recipe
from tribin.training import trainer
from tribin.training.step import StepResult, train_step

TINY = Path(__file__).with_name("tiny.yaml")
# The override that makes it a Flow++.
FLOWPP = (
    "model={name: flowpp, width: 8, blocks: 1, dequantization_blocks: 1, mixture_components: 2}"
)


def tiny_recipe(*overrides: str) -> Recipe:
    return load_recipe(TINY, overrides)


def tribin(*arguments: object) -> Result:
    """Run the command line in this process; what it should have handled and did not is raised."""
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


def tribin_process(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "tribin", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def tensor_files(run_dir: Path, images_seen: int) -> dict[str, bytes]:
    """The files of weights and optimizer state of one checkpoint, byte for byte."""
    folder = run_dir / "checkpoints" / str(images_seen)
    return {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}


def checkpoints(run_dir: Path) -> list[int]:
    """Images seen of the run's checkpoints, and of nothing else that is in their folder."""
    folders = {path for path in (run_dir / "checkpoints").iterdir() if path.name != "latest"}
    return sorted(int(folder.name) for folder in folders)


def metrics(run_dir: Path) -> str:
    return (run_dir / "metrics.jsonl").read_text(encoding="utf-8")


class Cut(BaseException):
    """What a run is cut by in these tests; like a signal, nothing catches it."""


@contextmanager
def cut_before(step: int) -> Iterator[None]:
    """Cut the run that is trained in this context before its n-th step, counted from 0."""
    steps = itertools.count()

    def step_or_cut(*arguments: Any) -> StepResult:
        if next(steps) == step:
            raise Cut
        return train_step(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "train_step", step_or_cut)
        with pytest.raises(Cut):
            yield
