"""The profile of a training step, its report, and the operations that it counts."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.runs import FLOWPP, tiny_recipe
from torch.utils.flop_counter import FlopCounterMode

from tribin.errors import NonFiniteError
from tribin.models import GenerativeModel
from tribin.profiling.report import plots, table
from tribin.profiling.result import Result, read_result, write_result
from tribin.profiling.step import profile as step_module
from tribin.profiling.step.profile import StepArm, profile_step
from tribin.profiling.step.training_steps import TrainingSteps
from tribin.training.phases import PHASES
from tribin.training.run_folder import build_model
from tribin.training.step import backward

CPU = torch.device("cpu")
CEILINGS = {"copy": 1e10, "float32": 1e11, "bfloat16": 2e11, "bit": 1e12}
REAL = "model.precision={weights: 32, activations: 32}"
NAMES = [f"{bits} {dtype}" for dtype in ("float32", "bfloat16") for bits in ("W1A1", "W32A32")]


def arm(*overrides: str) -> StepArm:
    recipe = tiny_recipe(*overrides)
    return StepArm(build_model(recipe), recipe)


def all_arms() -> dict[str, StepArm]:
    return {
        f"{bits} {dtype}": arm(f"training.autocast={autocast}", *overrides)
        for dtype, autocast in {"float32": "none", "bfloat16": "bfloat16"}.items()
        for bits, overrides in {"W1A1": (), "W32A32": (REAL,)}.items()
    }


@pytest.fixture(autouse=True)
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """One whole step and one phase by phase."""
    monkeypatch.setattr(step_module, "SECONDS", 0)


@pytest.fixture(scope="module")
def result() -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_module, "SECONDS", 0)
        return profile_step(
            all_arms(), CPU, batch_size=4, ceilings=CEILINGS, rounds=3, settings={"recipe": "tiny"}
        )


def test_every_arm_has_its_step_and_phases(result: Result) -> None:
    assert [(entry.contender, entry.problem) for entry in result.entries] == [
        (name, problem) for name in NAMES for problem in ("step", *PHASES, "other")
    ]
    assert all(entry.timing.median > 0 for entry in result.entries)
    assert all(entry.timing.samples == 3 for entry in result.entries)
    images = {entry.problem: entry.images for entry in result.entries}
    assert images == {"step": 4, **dict.fromkeys((*PHASES, "other"))}
    assert (result.kind, result.ceilings) == ("step", CEILINGS)
    assert result.settings == {"recipe": "tiny", "batch_size": 4, "rounds": 3}


def test_arms_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[str, bool]] = []
    take = TrainingSteps.take

    def watched(steps: TrainingSteps, *, logs: bool = False) -> None:
        taken.append((names[steps.model], logs))
        take(steps, logs=logs)

    monkeypatch.setattr(TrainingSteps, "take", watched)
    arms = {"A": arm(), "B": arm(REAL)}
    names: dict[GenerativeModel, str] = {arm.model: name for name, arm in arms.items()}
    profile_step(arms, CPU, batch_size=2, ceilings={}, rounds=2)
    turns = [("A", False), ("A", True), ("B", False), ("B", True)]
    assert taken == [("A", True), ("B", True), *turns, *turns]


@pytest.mark.parametrize("model", ["resnet_vae", "flowpp"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_operations_of_a_real_model_are_those_that_torch_counts(
    model: str, accumulation: int
) -> None:
    """Forward and backward on values, against a count without them."""
    overrides = (FLOWPP,) if model == "flowpp" else ()
    real = arm(*overrides, REAL, f"training.accumulation={accumulation}")
    result = profile_step({"real": real}, CPU, batch_size=6, ceilings={}, rounds=2)
    with FlopCounterMode(display=False) as counter:
        backward(real.model, torch.zeros(6, 1, 8, 8, dtype=torch.uint8), real.recipe)
    assert result.details["operations"] == {"real": {"float32": counter.get_total_flops()}}
    step = result.entries[0]
    assert (step.operations, step.arithmetic) == (counter.get_total_flops(), "float32")


def test_operations_by_what_is_multiplied(result: Result) -> None:
    """A binary layer's forward pass is on bits, its backward pass on real gradients."""
    operations = result.details["operations"]
    kinds = {name: set(of_arm) for name, of_arm in operations.items()}
    assert kinds == {
        "W1A1 float32": {"float32", "bit"}, "W32A32 float32": {"float32"},
        "W1A1 bfloat16": {"bfloat16", "bit"}, "W32A32 bfloat16": {"bfloat16"},
    }  # fmt: skip
    layer = 2 * 4 * 4 * 4 * 8 * 8 * 9  # two, images, height, width, outputs, inputs, taps
    assert operations["W1A1 float32"]["bit"] == 2 * 2 * 2 * layer  # levels, directions, layers
    steps = {entry.contender: entry for entry in result.entries if entry.problem == "step"}
    assert steps["W1A1 float32"].operations == sum(operations["W1A1 float32"].values())
    assert steps["W1A1 float32"].arithmetic is None


def test_saved_bytes_are_those_of_a_micro_batch() -> None:
    def blocks(accumulation: int) -> int:
        one = arm(f"training.accumulation={accumulation}")
        result = profile_step({"one": one}, CPU, batch_size=8, ceilings={}, rounds=2)
        layers = result.details["saved"]["one"]
        return sum(layer["bytes"] for layer in layers if layer["kind"] == "BinaryConv2d")

    words = 8 * 4 * 4 * 2  # 8 channels take a word of signs and one of the mask
    assert blocks(1) == 2 * 2 * 2 * words * 4
    assert blocks(2) == blocks(1) // 2


def test_an_arm_that_is_not_finite_is_named() -> None:
    bad = arm("optimizer={schedule: constant, learning_rate: 1e30}")
    with pytest.raises(NonFiniteError, match=r"bad: loss .* after 8 random images"):
        profile_step({"good": arm(), "bad": bad}, CPU, batch_size=4, ceilings={}, rounds=2)


def test_the_report_of_a_result_that_was_written(result: Result, tmp_path: Path) -> None:
    write_result(result, tmp_path)
    read = read_result(tmp_path)
    assert read == result
    assert table(read) == table(result)
    pictures = plots(read)
    assert list(pictures) == ["phases", "saved"]
    assert all(image.startswith(b"\x89PNG") for image in pictures.values())


def test_table(result: Result) -> None:
    text = table(result)
    assert max(map(len, text.splitlines())) <= 100
    _, *blocks = text.split("\n\n")
    assert [block.split("\n")[0].split("  ")[0] for block in blocks] == [
        *2 * ["training step, batch 4"],
        *2 * ["saved for backward, by kind"],
        *2 * ["largest layers"],
    ]
    assert blocks[0].split("\n")[0].endswith("W1A1 float32  W32A32 float32  W1A1 bfloat16")
    assert blocks[1].split("\n")[0].endswith("  W32A32 bfloat16")
    rows = [line.strip().split("  ")[0] for line in blocks[0].splitlines()[1:]]
    assert rows == [
        "median", "noise", "images/s", *PHASES, "other", "operations", "predicted",
        "saved for backward",
    ]  # fmt: skip
    phases = blocks[1].splitlines()[4:-3]
    shares = [int(line.removesuffix("%").split()[-1]) for line in phases]
    assert sum(shares) == pytest.approx(100, abs=len(shares) / 2)  # rounded


def test_table_without_ceilings_and_with_the_memory_of_a_gpu(result: Result) -> None:
    memory = {"predicted": dict.fromkeys(NAMES), "peak_memory": dict.fromkeys(NAMES, 123_456_789)}
    text = table(replace(result, details={**result.details, **memory}))
    assert "predicted" not in text
    rows = [line.split() for line in text.splitlines() if line.startswith("peak memory")]
    assert rows == [["peak", "memory", *3 * ["123", "MB"]], ["peak", "memory", "123", "MB"]]
