"""``tribin profile step``: its table, its files, and what it refuses."""

import json
from pathlib import Path

import pytest
from tests.runs import TINY, tribin

from tribin.profiling.result import read_result

STEP = ("profile", "step", TINY, "--rounds", "2", "--device", "cpu")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ceilings = {"copy": 1e10, "float32": 1e11, "bit": 1e12}
    monkeypatch.setattr("tribin.cli.profile.step.measure_ceilings", lambda device: ceilings)
    monkeypatch.setattr("tribin.profiling.step.profile.SECONDS", 0)
    monkeypatch.chdir(tmp_path)


def test_table_and_report(tmp_path: Path) -> None:
    run = tribin(*STEP, "--output", "report")
    assert run.exit_code == 0
    assert "report" in run.stderr
    assert run.stdout == (tmp_path / "report" / "table.txt").read_text()
    assert {file.name for file in (tmp_path / "report").iterdir()} == {
        "results.json", "table.txt", "phases.png", "saved.png",
    }  # fmt: skip
    assert read_result(tmp_path / "report").settings == {
        "recipe": str(TINY), "overrides": [], "batch_size": 8, "rounds": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "batch_size"),
    [
        ((), 8),
        (("training.batch_size=4",), 4),
        (("training.batch_size=64",), 8),
        (("training.batch_size=64", "--batch-size", "16"), 16),
    ],
)
def test_the_batch_is_the_recipes_or_what_a_cpu_takes_of_it(
    arguments: tuple[str, ...], batch_size: int
) -> None:
    run = tribin(*STEP, *arguments, "--json", "-o", "report")
    settings = json.loads(run.stdout)["settings"]
    overrides = [argument for argument in arguments[:1] if "=" in argument]
    assert (settings["batch_size"], settings["overrides"]) == (batch_size, overrides)


def test_trace(tmp_path: Path) -> None:
    assert tribin(*STEP, "--trace").exit_code == 0
    (folder,) = (tmp_path / "profiles").glob("step-*")
    assert {"results.json", "trace.json", "memory.txt"} <= {file.name for file in folder.iterdir()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("profile", "step", "resnet_vae/cifar10_w2a2"), "resnet_vae/cifar10_w2a2"),
        ((*STEP, "model.width=none"), "model.width"),
        ((*STEP, "data.name=cifar10", "model.widht=8"), "widht"),
        ((*STEP, "--batch-size", "0"), "--batch-size"),
        ((*STEP[:-1], "cuda"), "--device"),
    ],
)
def test_bad_input(tmp_path: Path, arguments: tuple[object, ...], message: str) -> None:
    run = tribin(*arguments)
    assert (run.exit_code, run.stdout) == (2, "")
    assert message in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    run = tribin(*STEP, "--trace", "--output", "file/report")
    assert (run.exit_code, run.stdout) == (2, "")
    assert "--output" in run.stderr


def test_a_step_that_is_not_finite(tmp_path: Path) -> None:
    run = tribin(*STEP, "optimizer={schedule: constant, learning_rate: 1e30}")
    assert run.exit_code == 3
    assert "recipe: loss" in run.stderr
    assert list(tmp_path.iterdir()) == []
