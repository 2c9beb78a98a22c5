"""The trace of two steps, and the memory that operations take."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from tests.runs import tiny_recipe

from tribin.errors import InputError
from tribin.profiling.step.trace import write_trace
from tribin.profiling.step.training_steps import TrainingSteps
from tribin.training.run_folder import build_model


@pytest.fixture
def steps() -> TrainingSteps:
    recipe = tiny_recipe()
    return TrainingSteps(build_model(recipe), recipe, torch.device("cpu"), batch_size=4)


def test_the_trace_has_the_phases_of_two_steps(steps: TrainingSteps, tmp_path: Path) -> None:
    """Each step updates latent weights, average and gradients, and looks at signs twice."""
    write_trace(steps, tmp_path / "report")
    trace = json.loads((tmp_path / "report" / "trace.json").read_bytes())
    annotations = (x for x in trace["traceEvents"] if x.get("cat") == "user_annotation")
    assert Counter(x["name"] for x in annotations if not x["name"].startswith("Optimizer")) == {
        "data": 2, "forward": 2, "backward": 2, "clip": 4, "optimizer": 6, "logging": 4,
    }  # fmt: skip
    assert steps.images_seen == 4 * 3  # one before the trace
    _, header, _, largest, *_ = (tmp_path / "report" / "memory.txt").read_text().splitlines()
    assert "Self CPU Mem" in header
    assert "aten::" in largest


def test_a_folder_that_cannot_be_written(steps: TrainingSteps, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--output: .*file/report cannot be written: Not a dir"):
        write_trace(steps, tmp_path / "file" / "report")
