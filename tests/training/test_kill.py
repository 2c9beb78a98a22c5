"""Runs in processes of their own that are killed or stopped at random moments, and go on."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.runs import TINY, metrics, tensor_files

pytestmark = pytest.mark.slow

OVERRIDES = (
    "training.images=4000",
    "checkpoints.every_images=64",
    "evaluation.every_images=400",
    "samples.every_images=400",
    "training.log_every_images=80",
)
KILLS, KILLS_IN_A_SAVE, SIGNALS = 60, 20, 20
LONGEST_RUN = 6.0
"""Seconds that a process may run before its signal comes."""


def start(run_dir: Path) -> subprocess.Popen[str]:
    """Train, or go on with what is there."""
    new = ("train", TINY, *OVERRIDES, "--run-dir", run_dir)
    command = ("resume", run_dir) if run_dir.exists() else new
    arguments = [sys.executable, "-m", "tribin", *map(str, command)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait(process: subprocess.Popen[str], seconds: float, saving: Path | None = None) -> bool:
    """Wait so long, and then for a save of that run; whether the process still runs then."""
    end = time.monotonic() + seconds
    while process.poll() is None:
        if time.monotonic() > end and (saving is None or is_saving(saving)):
            return True
        time.sleep(0.0005)
    return False


def is_saving(run_dir: Path) -> bool:
    return any((run_dir / "checkpoints").glob("*.tmp"))


def finish(run_dir: Path) -> None:
    process = start(run_dir)
    _, errors = process.communicate()
    assert process.returncode == 0, errors


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "undisturbed"
    finish(run_dir)
    return run_dir


def assert_as_undisturbed(run_dir: Path, undisturbed: Path) -> None:
    assert tensor_files(run_dir, 4000) == tensor_files(undisturbed, 4000)
    assert metrics(run_dir) == metrics(undisturbed)
    assert (run_dir / "samples.png").read_bytes() == (undisturbed / "samples.png").read_bytes()


def test_kills_at_any_moment_lose_nothing(undisturbed: Path, tmp_path: Path) -> None:
    moments = random.Random(0)
    run_dir, kills, kills_in_a_save, runs = tmp_path / "0", 0, 0, 1
    while kills < KILLS or kills_in_a_save < KILLS_IN_A_SAVE:
        process = start(run_dir)
        saving = run_dir if kills % 2 == 0 else None
        struck = wait(process, moments.uniform(0, LONGEST_RUN), saving)
        if struck:
            process.kill()
            kills += 1
        _, errors = process.communicate()
        if struck:
            kills_in_a_save += is_saving(run_dir)
        else:
            assert process.returncode == 0, errors
            assert_as_undisturbed(run_dir, undisturbed)
            run_dir, runs = tmp_path / str(runs), runs + 1
    finish(run_dir)
    assert_as_undisturbed(run_dir, undisturbed)
    print(f"{kills} kills, {kills_in_a_save} of them in a save, in {runs} runs")


def test_signals_at_any_moment_lose_nothing(undisturbed: Path, tmp_path: Path) -> None:
    moments = random.Random(1)
    run_dir, signals, runs, slowest = tmp_path / "0", 0, 1, 0.0
    while signals < SIGNALS:
        process = start(run_dir)
        assert process.stderr is not None
        first_line = process.stderr.readline()  # by then it listens
        if wait(process, moments.uniform(0, LONGEST_RUN)):
            process.send_signal(moments.choice((signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)))
        begin = time.monotonic()
        _, errors = process.communicate()
        if process.returncode == 75:
            signals += 1
            slowest = max(slowest, time.monotonic() - begin)
        else:  # it came when all was written
            assert (run_dir / "summary.json").exists(), first_line + errors
            assert_as_undisturbed(run_dir, undisturbed)
            run_dir, runs = tmp_path / str(runs), runs + 1
    finish(run_dir)
    assert_as_undisturbed(run_dir, undisturbed)
    assert slowest < 20
    print(f"{signals} signals in {runs} runs, saved and left within {slowest:.2f} s")
