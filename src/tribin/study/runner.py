"""Train what a study plans, each run in a process of its own; what is finished is left alone."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tribin.atomic_file import failures_named, write_atomically
from tribin.errors import InputError, NonFiniteError, StoppedError
from tribin.recipe import dump_recipe
from tribin.study.plan import PlannedRun, Study
from tribin.tracking.progress import print_line
from tribin.training.run_folder import RunFolder, is_run
from tribin.training.stop_signal import StopSignal

POLL_SECONDS = 0.1
EXIT_CODES = {3: NonFiniteError, 75: StoppedError}


@dataclass(frozen=True)
class _Process:
    """A run in training."""

    run: PlannedRun
    device: str | None
    process: subprocess.Popen[bytes]
    log: Path


def run_study(study: Study, folder: Path, devices: Sequence[str] = ()) -> None:
    """Train the runs of a study that are not finished; those that were cut go on.

    Each run has its folder, ``runs/<row>-seed<seed>``, and ``logs/`` what it printed.

    Args:
        study: what to train.
        folder: of the study; made if it is missing.
        devices: GPU indices or ``cpu``, as CUDA_VISIBLE_DEVICES has them; each trains one run at a
            time. Where there are none, one after the other where `tribin train` would.

    Raises:
        InputError: if the folder has a run of another recipe, or a run can't be trained.
        NonFiniteError: if the guard stops a run.
        StoppedError: if a signal comes, after which all runs in training are saved.
    """
    waiting = [run for run in study.runs if not is_finished(folder, run)]
    print_line(f"{study.name}: {len(study.runs) - len(waiting)} of {len(study.runs)} runs finished")
    free: list[str | None] = list(devices) or [None]
    training: list[_Process] = []
    signal = StopSignal()
    with signal.listening():
        try:
            while waiting or training:
                _check(signal)
                while waiting and free:
                    training.append(_start(folder, waiting.pop(0), free.pop(0), devices))
                time.sleep(POLL_SECONDS)
                for each in [each for each in training if each.process.poll() is not None]:
                    training.remove(each)
                    free.append(each.device)
                    _check_finished(each)
        finally:
            for each in training:
                each.process.terminate()
            for each in training:
                each.process.wait()


def _check(signal: StopSignal) -> None:
    try:
        signal.check()
    except StoppedError as error:
        raise StoppedError(f"{error}; the same command goes on") from error


def is_finished(folder: Path, run: PlannedRun) -> bool:
    """Whether the run's folder holds its summary.

    Raises:
        InputError: if the folder's recipe is another one.
    """
    path = run_folder(folder, run)
    if not is_run(path):
        return False
    if RunFolder.open(path).recipe != run.recipe:
        raise InputError(
            f"{path} holds a run of another recipe than the study's; name another --folder"
        )
    return (path / "summary.json").is_file()


def run_folder(folder: Path, run: PlannedRun) -> Path:
    """The run's folder in the study's."""
    return folder / "runs" / run.name


def _start(folder: Path, run: PlannedRun, device: str | None, devices: Sequence[str]) -> _Process:
    path, log = run_folder(folder, run), folder / "logs" / f"{run.name}.txt"
    recipe = folder / "recipes" / f"{run.name}.yaml"
    for parent in (path.parent, log.parent, recipe.parent):
        with failures_named(parent):
            parent.mkdir(parents=True, exist_ok=True)
    write_atomically(recipe, dump_recipe(run.recipe).encode())
    command = ["resume", path] if is_run(path) else ["train", recipe, "--run-dir", path]
    print_line(f"{run.name}: {command[0]}" + (f" on {device}" if device else ""))
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tribin", *map(str, command)],
            stdout=output,
            stderr=output,
            env=_environment(device, devices),
            start_new_session=True,  # a signal to the study is passed on once
        )
    return _Process(run, device, process, log)


def _environment(device: str | None, devices: Sequence[str]) -> dict[str, str]:
    if device is None:
        return dict(os.environ)
    if device != "cpu":
        return os.environ | {"CUDA_VISIBLE_DEVICES": device}
    threads = max(1, (os.cpu_count() or 1) // list(devices).count("cpu"))
    return os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(threads)}


def _check_finished(each: _Process) -> None:
    code = each.process.returncode
    lines = each.log.read_text(errors="replace").splitlines()
    if code:
        error = EXIT_CODES.get(code, InputError)
        raise error(f"{each.run.name} ended with exit code {code}: {' '.join(lines[-1:])}")
    result = next((line for line in lines[::-1] if line.startswith("test bits/dim")), "finished")
    print_line(f"{each.run.name}: {result}")
