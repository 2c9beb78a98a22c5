"""Two training steps as torch's profiler sees them, for tools that draw its traces."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from tribin.errors import InputError
from tribin.profiling.step.training_steps import TrainingSteps

STEPS = 2
OPERATIONS = 40
"""Rows of ``memory.txt``."""


def write_trace(steps: TrainingSteps, folder: Path) -> None:
    """Trace steps that log, after one that is not traced.

    ``trace.json`` is for Perfetto or chrome://tracing; it has the phases by name. What takes memory
    is in ``memory_snapshot.pickle`` on a GPU, for pytorch.org/memory_viz, and on a CPU in
    ``memory.txt``, operation by operation.

    Raises:
        InputError: if they can't be written.
    """
    steps.take(logs=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if steps.device.type == "cuda":
            with _memory_snapshot(folder / "memory_snapshot.pickle"):
                _profile(steps).export_chrome_trace(str(folder / "trace.json"))
        else:
            profiler = _profile(steps)
            profiler.export_chrome_trace(str(folder / "trace.json"))
            memory = profiler.key_averages().table("self_cpu_memory_usage", row_limit=OPERATIONS)
            (folder / "memory.txt").write_text(memory)
    except OSError as error:
        raise InputError(f"--output: {folder} cannot be written: {error.strerror}") from error


def _profile(steps: TrainingSteps) -> profile:
    on_cpu = steps.device.type == "cpu"
    activities = [ProfilerActivity.CPU, *([] if on_cpu else [ProfilerActivity.CUDA])]
    with profile(activities=activities, profile_memory=on_cpu) as profiler:
        for _ in range(STEPS):
            steps.take(logs=True)
    return profiler


@contextmanager
def _memory_snapshot(file: Path) -> Iterator[None]:
    """Record what is allocated inside, and from where."""
    torch.cuda.memory._record_memory_history()
    try:
        yield
        torch.cuda.memory._dump_snapshot(str(file))
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)
