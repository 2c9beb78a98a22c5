"""First right, then timed: costs by hand, cold operands, and planted wrong results."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from tribin.profiling.kernels import profile as kernels
from tribin.profiling.kernels.baselines import BASELINES
from tribin.profiling.kernels.candidate import Candidate, UnavailableError
from tribin.profiling.kernels.operands import Layer
from tribin.profiling.kernels.problem import OPS, Problem
from tribin.profiling.kernels.profile import WrongResultError, profile_kernels
from tribin.profiling.kernels.work import layer_of, tribin
from tribin.profiling.result import Entry, Result, read_result, write_result
from tribin.profiling.timing import Contender, Race, Timing, run_races

CPU = torch.device("cpu")
TIMING = Timing(1.0, 1.0, 1.0, 0.0, 2)
COLD = 200_000
SHAPES = {op: "2x37x5x6:10x3" if "conv2d" in op else "5x77:10" for op in OPS} | {
    "pack_signs": "5x77"
}


class Stopwatch:
    """Takes the place of `run_races`, and keeps what it was to time."""

    def __init__(self) -> None:
        self.contenders: dict[str, list[Contender]] = {}

    def __call__(
        self,
        races: Sequence[Race],
        device: torch.device,
        *,
        rounds: int,
        progress: Callable[[str], None],
    ) -> dict[tuple[str, str], Timing]:
        self.contenders = {race.name: list(race.contenders()) for race in races}
        return {(race, one.name): TIMING for race, all in self.contenders.items() for one in all}


@pytest.fixture(autouse=True)
def stopwatch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    stopwatch = Stopwatch()
    monkeypatch.setattr(kernels, "run_races", stopwatch)
    monkeypatch.setattr(kernels, "cold_bytes", lambda device: COLD)
    return stopwatch


def profile(
    *problems: str, dtype: torch.dtype = torch.float32, baselines: tuple[str, ...] = (), **more: Any
) -> Result:
    parsed = [Problem.parse(*problem.split()) for problem in problems]
    return profile_kernels(parsed, CPU, dtype=dtype, baselines=baselines, ceilings={}, **more)


def cost(result: Result) -> tuple[int, int, str | None]:
    (entry,) = result.entries
    return entry.operations, entry.bytes, entry.arithmetic


def test_the_cost_of_a_convolution_by_hand() -> None:
    """2 images of 37 channels of 5x6 to 10 channels; 37 bits take 2 words."""
    x, weight, y = 2 * 37 * 30, 10 * 37 * 9, 2 * 10 * 30
    signs = 2 * 30 * 2
    operations = 2 * y * 37 * 9
    shape = "2x37x5x6:10x3"
    parameters = 4 * (weight + 10)
    assert cost(profile(f"binary_conv2d_w1a1 {shape}")) == (
        operations, 4 * (x + 10 + y + 2 * signs) + parameters, "bit",
    )  # fmt: skip
    assert cost(profile(f"binary_conv2d {shape}", dtype=torch.bfloat16)) == (
        operations, 2 * (x + y) + 4 * 10 + parameters, "bfloat16",
    )  # fmt: skip
    assert cost(profile(f"binary_conv2d_w1a1_backward {shape}")) == (
        2 * operations, 4 * (y + 2 * signs + x + 10) + 2 * parameters, "float32",
    )  # fmt: skip
    packed = 4 * (10 * 9 * 2 + 2 * 10)
    assert cost(profile(f"packed_conv2d {shape},bits,residual")) == (
        operations, 4 * (signs + 2 * y) + packed, "bit",
    )  # fmt: skip
    assert cost(profile(f"packed_conv2d {shape},signs,to_bits")) == (
        operations, 4 * (x + 2 * 30) + packed, "bit",
    )  # fmt: skip


def test_the_cost_of_packing_by_hand() -> None:
    assert cost(profile("pack_signs 3x5x77")) == (0, 3 * 5 * (77 * 4 + 3 * 4), None)


@pytest.mark.parametrize("op", OPS)
def test_what_an_op_multiplies_is_what_the_cost_model_says(op: str) -> None:
    problem = Problem.parse(op, SHAPES[op])
    ours = tribin(problem, layer_of(problem, torch.bfloat16, CPU))
    assert kernels._cost(ours).arithmetic == ours.arithmetic


def test_entries_say_who_computed_what() -> None:
    result = profile(
        "binary_linear_w1a1 5x77:10", "pack_signs 5x77", baselines=("torch bfloat16", "copy")
    )
    linear = replace(entry := result.entries[0], contender="torch bfloat16", arithmetic="bfloat16")
    assert entry == Entry(
        "binary_linear_w1a1 5x77:10", "tribin", TIMING, 2 * 5 * 77 * 10,
        4 * (5 * 77 + 10 * 77 + 2 * 10 + 5 * 10 + 2 * 5 * 3), "bit",
    )  # fmt: skip
    assert result.entries[1] == linear
    assert [one.contender for one in result.entries[2:]] == ["tribin", "copy"]
    assert result.kind == "kernels"


def test_settings_and_details_survive_their_file(tmp_path: Path) -> None:
    result = profile("pack_signs 5x77", settings={"shapes": ["5x77"]}, rounds=2)
    assert result.settings == {"shapes": ["5x77"], "dtype": "float32", "rounds": 2}
    assert result.details == {"skipped": {}, "errors": {"pack_signs 5x77": {"tribin": 0.0}}}
    write_result(result, tmp_path)
    assert read_result(tmp_path) == result


def tensors(run: Any) -> list[Tensor]:
    """The operands of a run that needs nothing else, a `functools.partial`."""
    return [value for value in tree_leaves(run.args) if isinstance(value, Tensor)]


def test_operands_that_take_turns_are_cold(stopwatch: Stopwatch) -> None:
    """Their copies lie in places of their own, and are more than the last-level cache."""
    names = ("torch float32", "torch bfloat16", "copy")
    profile("binary_conv2d 2x37x5x6:10x3", "packed_conv2d 2x37x5x6:10x3,bits,to_bits",
            "pack_signs 5x77", baselines=names)  # fmt: skip
    seen = []
    for contender in (one for all in stopwatch.contenders.values() for one in all):
        if contender.name == "copy":  # a closure
            continue
        copies = [tensors(run) for run in contender.runs]
        bytes_of_a_copy = sum(value.nbytes for value in copies[0])
        assert (len(copies) - 1) * bytes_of_a_copy < COLD <= len(copies) * bytes_of_a_copy
        places = [value.data_ptr() for values in copies for value in values]
        assert len(places) == len(set(places))
        seen.append(contender.name)
    assert seen == ["tribin", "torch float32", "torch bfloat16"] * 2 + ["tribin"]


def test_copies_of_small_operands_are_not_without_end(
    monkeypatch: pytest.MonkeyPatch, stopwatch: Stopwatch
) -> None:
    monkeypatch.setattr(kernels, "MOST_COPIES", 7)
    profile("pack_signs 2x3")
    (contender,) = stopwatch.contenders["pack_signs 2x3"]
    assert len(contender.runs) == 7


def planted(baseline: str, wrong: Callable[[Any], Any]) -> Callable[..., Candidate | None]:
    """The baseline, with what it computes changed."""
    original = BASELINES[baseline]

    def baseline_and_fault(problem: Problem, layer: Layer) -> Candidate | None:
        candidate = original(problem, layer)
        if candidate is None:
            return None

        def prepare(*operands: Any) -> Callable[[], Any]:
            run = candidate.prepare(*operands)
            return lambda: wrong(run())

        return replace(candidate, prepare=prepare)

    return baseline_and_fault


@pytest.mark.parametrize("wrong", [lambda y: y * 1.5, lambda y: y.roll(1, -1), lambda y: y / 0])
@pytest.mark.parametrize("name", ["torch float32", "torch bfloat16", "simulated"])
def test_nothing_is_timed_if_a_baseline_is_wrong(
    monkeypatch: pytest.MonkeyPatch, stopwatch: Stopwatch, name: str, wrong: Callable[[Any], Any]
) -> None:
    monkeypatch.setitem(BASELINES, name, planted(name, wrong))
    with pytest.raises(WrongResultError) as caught:
        profile("pack_signs 5x77", "binary_linear 5x77:10", baselines=("torch float32", name))
    message = str(caught.value)
    assert message.startswith(f"binary_linear 5x77:10: {name} is wrong: the error of 'y' is ")
    assert message.endswith(" times what rounding explains")
    assert stopwatch.contenders == {}


def last_of(result: Tensor) -> Tensor:
    """One at the last element, else zeros."""
    last = torch.arange(result.numel()) == result.numel() - 1
    return last.reshape(result.shape).to(result.dtype)


@pytest.mark.parametrize("op", OPS)
def test_nothing_is_timed_if_an_op_is_wrong(
    monkeypatch: pytest.MonkeyPatch, stopwatch: Stopwatch, op: str
) -> None:
    """Each of its results is looked at, to the last element."""
    problem = Problem.parse(op, SHAPES[op])
    ours = tribin(problem, layer_of(problem, torch.float32, CPU))
    for position, _ in enumerate(ours.results(ours.prepare(*ours.operands)())):

        def wrong(problem: Problem, layer: Layer, position: int = position) -> Candidate:
            candidate = tribin(problem, layer)

            def results(returned: Any) -> dict[str, Tensor]:
                named = dict(candidate.results(returned))
                name = list(named)[position]
                return named | {name: named[name] + last_of(named[name])}

            return replace(candidate, results=results)

        monkeypatch.setattr(kernels, "tribin", wrong)
        with pytest.raises(WrongResultError, match="tribin is wrong"):
            profile(problem.name)
        assert stopwatch.contenders == {}


def test_baselines_that_cannot_be_had_are_skipped_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(problem: Problem, layer: Layer) -> Candidate | None:
        raise UnavailableError("it is not installed")

    monkeypatch.setitem(BASELINES, "gemlite", missing)
    result = profile("binary_linear 5x77:10", baselines=("gemlite", "torch._int_mm", "simulated"))
    assert [entry.contender for entry in result.entries] == ["tribin", "simulated"]
    assert result.details["skipped"] == {"gemlite": "it is not installed"}


def test_with_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each problem is named when it is checked, and in each round."""
    monkeypatch.setattr(kernels, "run_races", run_races)
    seen: list[str] = []
    problems = "binary_linear_w1a1_backward 5x77:10", "pack_signs 5x77"
    result = profile(*problems, baselines=("simulated",), rounds=2, progress=seen.append)
    assert seen == [*problems] * 3
    assert [entry.contender for entry in result.entries] == ["tribin", "simulated", "tribin"]
    assert all(entry.timing.samples >= 4 for entry in result.entries)
    assert all(0 < entry.timing.median < 1 for entry in result.entries)


def test_float32_is_float32_and_the_setting_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def baseline(problem: Problem, layer: Layer) -> Candidate | None:
        seen.append(torch.backends.cudnn.allow_tf32)
        return None

    before = torch.backends.cudnn.allow_tf32
    monkeypatch.setitem(BASELINES, "simulated", baseline)
    profile("binary_linear 5x77:10", baselines=("simulated",))
    assert seen == [False]
    assert torch.backends.cudnn.allow_tf32 == before
