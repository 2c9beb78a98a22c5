"""A run that was cut goes on bit for bit: weights, optimizer state, averages and metrics."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runs import (
    TINY,
    Cut,
    checkpoints,
    cut_before,
    metrics,
    tensor_files,
    tiny_recipe,
    tribin,
    tribin_process,
)

from tribin.training import checkpoint
from tribin.training.trainer import resume, train
from tribin.training.verified_file import write_verified

LAST = 1600

# ``tribin`` with its arguments, in a process that kills itself before its n-th step.
KILL_BEFORE_STEP = """
import os, signal, sys
from tribin.cli import main
from tribin.training import trainer
from tribin.training.checkpoint import CheckpointStore

def step_or_die(*arguments):
    global remaining
    remaining -= 1
    if remaining == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return train_step(*arguments)

def save_and_wait(store, *arguments):
    save(store, *arguments)
    store.wait()

save, CheckpointStore.save = CheckpointStore.save, save_and_wait
remaining = int(sys.argv.pop(1))
train_step, trainer.train_step = trainer.train_step, step_or_die
main()
"""


def copy(run_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_dir, tmp_path / "copy"))


def assert_same_end(run_dir: Path, expected: Path, images_seen: int = LAST) -> None:
    assert tensor_files(run_dir, images_seen) == tensor_files(expected, images_seen)
    assert metrics(run_dir) == metrics(expected)
    assert (run_dir / "summary.json").read_bytes() == (expected / "summary.json").read_bytes()
    for folder in ("samples", "reconstructions"):
        image = Path(folder) / f"{images_seen}.png"
        assert (run_dir / image).read_bytes() == (expected / image).read_bytes()


def test_killed_and_resumed_in_another_process_ends_as_if_uncut(
    trained_run: Path, tmp_path: Path
) -> None:
    """200 steps in this process; 150 in a second, killed, and 100 from the checkpoint in a third.

    W1A1 with averaged weights. The same bits in three processes, too.
    """
    run_dir = tmp_path / "run"
    arguments = ["151", "train", str(TINY), "--run-dir", str(run_dir)]
    command = [sys.executable, "-c", KILL_BEFORE_STEP, *arguments]
    killed = subprocess.run(command, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert checkpoints(run_dir) == [800]
    assert tensor_files(run_dir, 800) == tensor_files(trained_run, 800)
    assert metrics(run_dir).splitlines() == metrics(trained_run).splitlines()[:150]
    assert not (run_dir / "summary.json").exists()

    resumed = tribin_process("resume", run_dir)
    assert (resumed.returncode, resumed.stdout.splitlines()[-1]) == (0, f"folder         {run_dir}")
    assert set(tensor_files(run_dir, LAST)) == {
        "model.safetensors",
        "optimizer.safetensors",
        "ema.safetensors",
    }
    assert len(metrics(run_dir).splitlines()) == 200
    assert_same_end(run_dir, trained_run)


SHORT = ("training.images=120", "checkpoints.every_images=32", "samples.every_images=24")


@pytest.fixture(scope="module")
def uncut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 15 steps, with checkpoints after 4, 8, 12 and 15."""
    run_dir = tmp_path_factory.mktemp("runs") / "uncut"
    train(tiny_recipe(*SHORT), run_dir)
    return run_dir


def names(run_dir: Path) -> set[Path]:
    return {path.relative_to(run_dir) for path in run_dir.rglob("*")}


def test_a_run_can_be_cut_again_and_again(
    uncut: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twice before there is a checkpoint, on one, and on its way to the next."""
    run_dir = tmp_path / "run"
    with cut_before(0):
        train(tiny_recipe(*SHORT), run_dir)
    for steps in (3, 4, 3):
        with cut_before(steps):
            resume(run_dir)
    resume(run_dir)
    assert capsys.readouterr().err.count("no checkpoint yet: starting from the beginning") == 2
    assert_same_end(run_dir, uncut, 120)
    assert names(run_dir) == names(uncut)


@pytest.mark.parametrize(
    "overrides",
    [
        ("training.ema_decay=null", "training.accumulation=2"),
        ("evaluation.every_images=24", "optimizer.schedule=exponential"),
        ("model.precision={weights: 32, activations: 32}", "training.autocast=bfloat16"),
    ],
)
def test_cut_under_other_settings(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    recipe = tiny_recipe(*SHORT, *overrides)
    train(recipe, tmp_path / "uncut")
    with cut_before(10):
        train(recipe, tmp_path / "run")
    resume(tmp_path / "run")
    assert_same_end(tmp_path / "run", tmp_path / "uncut", 120)


def test_cut_while_a_checkpoint_is_written(
    uncut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The half-written one is passed over and replaced."""
    files = itertools.count(1)

    def write_or_cut(file: Path, content: list[bytes]) -> dict[str, Any]:
        if next(files) == 5:  # the second of the three files of the second checkpoint
            file.write_bytes(b"half a file")
            raise Cut
        return write_verified(file, content)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_verified", write_or_cut)
        with pytest.raises(Cut):
            train(tiny_recipe(*SHORT), tmp_path / "run")
    folders = [folder.name for folder in (tmp_path / "run" / "checkpoints").iterdir()]
    assert sorted(folders) == ["32", "64.tmp", "latest"]
    resume(tmp_path / "run")
    assert_same_end(tmp_path / "run", uncut, 120)
    assert names(tmp_path / "run") == names(uncut)


def test_a_finished_run_only_has_its_summary_done_again(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = copy(trained_run, tmp_path)
    folder = run_dir / "checkpoints"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    (run_dir / "summary.json").unlink()
    (run_dir / "samples.png").unlink()
    monkeypatch.setattr("tribin.training.trainer.train_step", None)
    resume(run_dir)
    assert_same_end(run_dir, trained_run)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_damaged_newest_checkpoint_is_passed_over_and_said(
    trained_run: Path, tmp_path: Path
) -> None:
    run_dir = copy(trained_run, tmp_path)
    model = run_dir / "checkpoints" / str(LAST) / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-100])
    result = tribin("resume", run_dir)
    assert result.exit_code == 0
    folder = run_dir / "checkpoints" / str(LAST)
    line = f"checkpoint {folder}: damaged or missing model.safetensors; falling back to 800"
    assert result.stderr.splitlines()[0] == line
    assert_same_end(run_dir, trained_run)


@settings(max_examples=8)
@given(share=st.floats(0, 1, exclude_max=True))
def test_metrics_cut_anywhere_after_the_checkpoint_lose_nothing(uncut: Path, share: float) -> None:
    """The line that was being written is dropped, and said."""
    with TemporaryDirectory() as folder:
        run_dir = copy(uncut, Path(folder))
        shutil.rmtree(run_dir / "checkpoints" / "120")  # 96 is the newest
        file = run_dir / "metrics.jsonl"
        lines = file.read_bytes().splitlines(keepends=True)
        first = sum(map(len, lines[:12]))
        position = int(first + share * (file.stat().st_size - first))
        os.truncate(file, position)
        torn = not file.read_bytes().endswith(b"\n")
        result = tribin("resume", run_dir)
        assert result.exit_code == 0
        said = "metrics.jsonl: dropped a torn last line" in result.stderr.splitlines()
        assert said == torn
        assert_same_end(run_dir, uncut, 120)


def test_only_damaged_checkpoints_are_bad_input_and_change_nothing(
    trained_run: Path, tmp_path: Path
) -> None:
    run_dir = copy(trained_run, tmp_path)
    for manifest in run_dir.glob("checkpoints/*/manifest.json"):
        manifest.write_bytes(manifest.read_bytes()[:100])
    for command in ("resume", "evaluate"):
        result = tribin(command, run_dir)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith(f"tribin: {run_dir}/checkpoints holds no intact checkpoint")
        assert result.stderr.count("\n") == 1
    assert metrics(run_dir) == metrics(trained_run)


@pytest.mark.parametrize(
    ("section", "before", "after"),
    [
        ("model", "width: 8", "width: 16"),
        ("data", "validation_images: 40", "validation_images: 41"),
        ("optimizer", "epsilon: 1.0e-08", "epsilon: 1.0e-07"),
    ],
)
def test_a_recipe_that_was_changed_is_not_resumed(
    trained_run: Path, tmp_path: Path, section: str, before: str, after: str
) -> None:
    run_dir = copy(trained_run, tmp_path)
    edit(run_dir / "recipe.yaml", before, after)
    result = tribin("resume", run_dir)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{section} in recipe.yaml is not that of checkpoint" in result.stderr
    assert metrics(run_dir) == metrics(trained_run)


def test_where_the_images_are_and_what_is_tracked_may_change(
    trained_run: Path, tmp_path: Path
) -> None:
    run_dir = copy(trained_run, tmp_path)
    digits = shutil.copytree(str(resources.files("tribin.data") / "digits"), tmp_path / "digits")
    edit(run_dir / "recipe.yaml", "path: null", f"path: {digits}")
    edit(run_dir / "recipe.yaml", "project: tribin", "project: other")
    assert tribin("resume", run_dir).exit_code == 0
    assert metrics(run_dir) == metrics(trained_run)


def edit(file: Path, before: str, after: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert before in text
    file.write_text(text.replace(before, after), encoding="utf-8")
