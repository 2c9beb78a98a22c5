"""Disks that fail under a run: one message, nothing half-written, and a resume that loses nothing.

Some are real: a small file system where the tests may mount one, a limit on the size of files.
"""

import errno
import io
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from tests.runs import TINY, Cut, checkpoints, metrics, tensor_files, tiny_recipe, tribin

from tribin.errors import InputError
from tribin.training import trainer
from tribin.training.checkpoint import CheckpointStore
from tribin.training.run_folder import RunFolder
from tribin.training.step import train_step
from tribin.training.trainer import train
from tribin.training.writing import writing

SHORT = ("training.images=80", "checkpoints.every_images=32", "samples.every_images=24")
LAST = 80
FULL = "No space left on device"


@pytest.fixture(scope="module")
def uncut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 10 steps, with checkpoints after 4, 8 and 10."""
    run_dir = tmp_path_factory.mktemp("runs") / "uncut"
    train(tiny_recipe(*SHORT), run_dir)
    return run_dir


def files(run_dir: Path) -> set[Path]:
    return {path.relative_to(run_dir) for path in run_dir.rglob("*")}


def train_on(run_dir: Path) -> Result:
    return tribin("train", TINY, *SHORT, "--run-dir", run_dir)


def assert_one_message(result: Result, path: Path, reason: str, advice: str) -> None:
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1] == f"tribin: {path}: {reason}; {advice}"


def assert_resumes_as_if_uncut(run_dir: Path, uncut: Path) -> None:
    result = tribin("resume", run_dir)
    assert result.exit_code == 0, result.stderr
    assert files(run_dir) == files(uncut)
    assert checkpoints(run_dir) == checkpoints(uncut)
    for images_seen in checkpoints(uncut):
        assert tensor_files(run_dir, images_seen) == tensor_files(uncut, images_seen)
    assert metrics(run_dir) == metrics(uncut)
    for name in ("summary.json", "samples.png", f"samples/{LAST}.png"):
        assert (run_dir / name).read_bytes() == (uncut / name).read_bytes()


def kept(images_seen: int, remedy: str, run_dir: Path) -> str:
    return f"checkpoint {images_seen} is kept: {remedy}, then `tribin resume {run_dir}`"


# A disk that is full from the n-th file of a kind on: half of that file is written


class FullFile(io.FileIO):
    """A file on a disk that has room for half of what is written."""

    def write(self, data: Any) -> int:
        super().write(memoryview(data)[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def full_disk(run_dir: Path, name: str, nth: int) -> Iterator[None]:
    """Fill the disk before the n-th file of a run whose path has `name` in it, from 0 on.

    Each save is done before the run goes on, so that it is known what is on the disk by then.
    """
    open_file, save, count = Path.open, CheckpointStore.save, 0

    def save_and_wait(store: CheckpointStore, *arguments: Any) -> None:
        save(store, *arguments)
        store.wait()

    def open_or_fail(path: Path, mode: str = "r", *arguments: Any, **keywords: Any) -> Any:
        nonlocal count
        if "r" not in mode and path.is_relative_to(run_dir):
            count += name in str(path.relative_to(run_dir))
        if "r" in mode or count <= nth:
            return open_file(path, mode, *arguments, **keywords)
        return io.BufferedWriter(FullFile(path, mode), buffer_size=1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", open_or_fail)
        patch.setattr(CheckpointStore, "save", save_and_wait)
        yield


@pytest.mark.parametrize(
    ("name", "nth", "failed", "newest"),
    [
        ("checkpoints", 0, "checkpoints/32.tmp/model.safetensors", None),
        ("checkpoints", 4, "checkpoints/latest", 32),
        ("checkpoints", 5, "checkpoints/64.tmp/model.safetensors", 32),
        ("checkpoints", 6, "checkpoints/64.tmp/optimizer.safetensors", 32),
        ("checkpoints", 7, "checkpoints/64.tmp/ema.safetensors", 32),
        ("checkpoints", 8, "checkpoints/64.tmp/manifest.json", 32),
        ("checkpoints", 9, "checkpoints/latest", 64),
        ("checkpoints", 13, "checkpoints/80.tmp/manifest.json", 64),
        ("metrics", 0, "metrics.jsonl", None),
        ("metrics", 8, "metrics.jsonl", 64),
        ("samples/.48", 0, "samples/48.png", 32),
        ("reconstructions/.72", 0, "reconstructions/72.png", 64),
        (".samples.png", 0, "samples.png", 80),
        ("summary", 0, "summary.json", 80),
    ],
)
def test_a_disk_that_fills(
    uncut: Path, tmp_path: Path, name: str, nth: int, failed: str, newest: int | None
) -> None:
    run_dir = tmp_path / "run"
    with full_disk(run_dir, name, nth):
        result = train_on(run_dir)
    advice = (
        f"there is no checkpoint yet: free space, then `tribin resume {run_dir}`, "
        "which starts from the beginning"
        if newest is None
        else kept(newest, "free space", run_dir)
    )
    assert_one_message(result, run_dir / failed, FULL, advice)
    assert not list(run_dir.rglob("*.tmp"))
    assert_resumes_as_if_uncut(run_dir, uncut)


def test_a_disk_that_is_full_from_the_start_leaves_the_name_free(tmp_path: Path) -> None:
    for name in ("recipe", "provenance"):
        with full_disk(tmp_path / "run", name, 0):
            result = train_on(tmp_path / "run")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.splitlines()[-1].endswith(f"run cannot be created: {FULL}")
        assert list(tmp_path.iterdir()) == []


def test_a_resume_on_a_full_disk_can_be_repeated(uncut: Path, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(uncut, tmp_path / "run"))
    shutil.rmtree(run_dir / "checkpoints" / "80")
    with full_disk(run_dir, "", 0):
        result = tribin("resume", run_dir)
    advice = kept(64, "free space", run_dir)
    assert_one_message(result, run_dir / "metrics.jsonl", FULL, advice)
    assert_resumes_as_if_uncut(run_dir, uncut)


# Real ones


@contextmanager
def before_step(number: int, act: Callable[[], object]) -> Iterator[None]:
    """Let something happen before the n-th step, counted from 0."""
    steps = 0

    def act_and_step(*arguments: Any) -> Any:
        nonlocal steps
        if steps == number:
            act()
        steps += 1
        return train_step(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "train_step", act_and_step)
        yield


def wait_for_checkpoint(run_dir: Path, images_seen: int) -> None:
    """It is written in the background, and what these tests do to the disk would hit it."""
    pointer = run_dir / "checkpoints" / "latest"
    deadline = time.monotonic() + 60
    while not (pointer.exists() and pointer.read_text() == f"{images_seen}\n"):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB, in memory."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(path)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def fill(disk: Path, left: int) -> None:
    wait_for_checkpoint(disk / "run", 32)
    free = shutil.disk_usage(disk).free
    (disk / "filler").write_bytes(bytes(max(0, free - left)))


@pytest.mark.parametrize("left", [0, 50_000, 100_000])
def test_a_full_file_system(uncut: Path, small_disk: Path, left: int) -> None:
    run_dir = small_disk / "run"
    with before_step(5, lambda: fill(small_disk, left)):
        result = train_on(run_dir)
    assert (result.exit_code, result.stdout) == (2, "")
    message = result.stderr.splitlines()[-1]
    assert message.startswith(f"tribin: {run_dir}/")
    newest = max(checkpoints(run_dir))
    assert message.endswith(f": {FULL}; {kept(newest, 'free space', run_dir)}")
    (small_disk / "filler").unlink()
    assert_resumes_as_if_uncut(run_dir, uncut)


def remount(disk: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(disk)], check=True)


def test_a_file_system_that_becomes_read_only(uncut: Path, small_disk: Path) -> None:
    run_dir = small_disk / "run"

    def make_read_only() -> None:
        wait_for_checkpoint(run_dir, 32)
        remount(small_disk, "ro")

    with before_step(7, make_read_only):
        result = train_on(run_dir)
    advice = kept(32, "make it writable", run_dir)
    assert_one_message(result, run_dir / "metrics.jsonl", "Read-only file system", advice)
    remount(small_disk, "rw")
    assert_resumes_as_if_uncut(run_dir, uncut)


def test_a_limit_on_the_size_of_files(uncut: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = (uncut / "checkpoints" / "64" / "optimizer.safetensors").stat().st_size - 1

    def set_limit() -> None:
        wait_for_checkpoint(run_dir, 32)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))

    try:
        with before_step(5, set_limit):
            result = train_on(run_dir)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    failed = run_dir / "checkpoints" / "64.tmp" / "optimizer.safetensors"
    assert_one_message(result, failed, "File too large", kept(32, "allow larger files", run_dir))
    assert_resumes_as_if_uncut(run_dir, uncut)


def test_a_metrics_file_on_a_full_device(uncut: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    file = run_dir / "metrics.jsonl"

    def fill_up() -> None:
        file.rename(tmp_path / "metrics.jsonl")
        file.symlink_to("/dev/full")

    with before_step(5, fill_up):
        result = train_on(run_dir)
    assert_one_message(result, file, FULL, kept(32, "free space", run_dir))
    file.unlink()
    (tmp_path / "metrics.jsonl").rename(file)
    assert_resumes_as_if_uncut(run_dir, uncut)


@pytest.mark.parametrize("step", [2, 5])
def test_a_run_folder_that_is_removed_is_not_made_again(tmp_path: Path, step: int) -> None:
    run_dir = tmp_path / "run"
    with before_step(step, lambda: run_dir.rename(tmp_path / "elsewhere")):
        result = tribin("train", TINY, *SHORT, "training.log_every_images=80", "--run-dir", run_dir)
    assert (result.exit_code, result.stdout) == (2, "")
    message = result.stderr.splitlines()[-1]
    assert message.startswith(f"tribin: {run_dir}/")
    assert message.endswith(
        ": No such file or directory; the run and its checkpoints are gone: train it again"
    )
    assert not run_dir.exists()


def test_a_disk_that_reads_back_something_else(
    uncut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, fsync = tmp_path / "run", os.fsync

    def fsync_and_lose(descriptor: int) -> None:
        fsync(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.parent.name == "64.tmp" and path.name == "ema.safetensors":
            os.truncate(path, 100)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync_and_lose)
        result = train_on(run_dir)
    failed = run_dir / "checkpoints" / "64.tmp" / "ema.safetensors"
    reason = "what is read back is not what was written"
    assert_one_message(result, failed, reason, kept(32, "see to the disk", run_dir))
    assert_resumes_as_if_uncut(run_dir, uncut)


# How a run is left


def make_run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", tiny_recipe(), torch.device("cpu"))


def test_what_was_saved_is_on_the_disk_however_a_run_is_left(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.checkpoints.save(8, {"model": {"w": torch.ones(10**6)}}, {})
    with pytest.raises(Cut), writing(run):
        raise Cut
    assert checkpoints(run.path) == [8]


def test_only_damaged_checkpoints_are_said_too(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    message = r"metrics.jsonl: No .*; .* holds no intact checkpoint: checkpoint .*/8: its manifest"
    (run.path / "checkpoints" / "8").mkdir(parents=True)
    with pytest.raises(InputError, match=message), writing(run):
        raise OSError(errno.ENOSPC, FULL, str(run.path / "metrics.jsonl"))


@pytest.mark.parametrize("arguments", [(errno.ENOSPC, FULL), (errno.ENOSPC, FULL, "/other/file")])
def test_what_is_not_a_file_of_the_run_is_not_its_matter(
    tmp_path: Path, arguments: tuple[Any, ...]
) -> None:
    with pytest.raises(OSError, match=FULL), writing(make_run(tmp_path)):
        raise OSError(*arguments)
