"""Fitted and expected exponents, and the report of them."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import scaling as suite
from tribin.profiling import scaling
from tribin.profiling.kernels import profile as kernels
from tribin.profiling.report import plots, table
from tribin.profiling.result import Entry, Result
from tribin.profiling.scaling import Sizes, Sweep, power_law, profile_scaling
from tribin.profiling.timing import Contender, Race, Timing

CPU = torch.device("cpu")
BASE = Sizes(width=8, batch=1, side=4)
SWEEPS = [
    Sweep("width", (8, 16, 32), BASE),
    Sweep("batch", (1, 2, 4), BASE),
    Sweep("side", (4, 8, 16), BASE),
]
CEILINGS = {"copy": 1e10, "float32": 1e11, "bit": 1e12}


@given(
    exponent=st.floats(-3, 3),
    factor=st.floats(1e-9, 1e9),
    sizes=st.lists(st.integers(1, 2000), min_size=3, max_size=8, unique=True),
)
def test_a_power_is_found_exactly(exponent: float, factor: float, sizes: list[int]) -> None:
    found, error = power_law(sizes, [factor * size**exponent for size in sizes])
    assert found == pytest.approx(exponent, abs=1e-5)
    assert error == pytest.approx(0, abs=1e-5)


@given(st.lists(st.tuples(st.integers(1, 5000), st.floats(1e-6, 1e3)), min_size=4, max_size=9,
                unique_by=lambda point: point[0]))  # fmt: skip
def test_the_fit_is_numpys(points: list[tuple[int, float]]) -> None:
    sizes, seconds = zip(*points, strict=True)
    (slope, _), covariance = np.polyfit(np.log(sizes), np.log(seconds), 1, cov=True)
    exponent, error = power_law(sizes, seconds)
    assert exponent == pytest.approx(slope, rel=1e-6, abs=1e-6)
    assert error == pytest.approx(math.sqrt(covariance[0, 0]), rel=1e-4, abs=1e-6)


def test_a_sweep_varies_one_size() -> None:
    assert Sweep("batch", (1, 2, 4), BASE).sizes == [
        Sizes(8, 1, 4), Sizes(8, 2, 4), Sizes(8, 4, 4)
    ]  # fmt: skip


def sweeps_of(result: Result, subject: str) -> dict[tuple[str, str], dict[str, Any]]:
    """By axis and contender."""
    return {
        (sweep["axis"], sweep["contender"]): sweep
        for sweep in result.details["sweeps"]
        if sweep["subject"] == subject
    }


def timing_of(seconds: float) -> Timing:
    return Timing(seconds, seconds, seconds, 0.0, 5)


def profile(subjects: Sequence[str], models: Sequence[str]) -> Result:
    return profile_scaling(
        {name: suite.KERNELS[name] for name in subjects},
        SWEEPS,
        {name: suite.MODELS[name] for name in models},
        SWEEPS,
        CPU,
        ceilings=CEILINGS,
        rounds=2,
        settings={"asked": "for"},
    )


def test_kernels_are_measured_and_expected_to_grow_as_convolutions_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels, "MOST_COPIES", 2)
    result = profile(["packed_conv2d, bits to bits"], [])
    sweeps = sweeps_of(result, "packed_conv2d, bits to bits")
    assert list(sweeps) == [(s.axis, c) for s in SWEEPS for c in ("tribin", "torch float32")]
    for (axis, _), sweep in sweeps.items():
        assert sweep["expected"] == pytest.approx({"width": 2, "batch": 1, "side": 2}[axis])
        assert sweep["standard_error"] >= 0
    entries = {(entry.problem, entry.contender): entry for entry in result.entries}
    first = entries["packed_conv2d 1x8x4x4:8x3,bits,to_bits", "tribin"]
    sweep = sweeps["width", "tribin"]
    assert sweep["values"] == [8, 16, 32]
    assert sweep["seconds"][0] == first.timing.median
    assert sweep["predicted"][0] == result.floor(first)
    assert result.settings == {"asked": "for", "rounds": 2}
    # the base is of all three sweeps, and measured once
    assert len(result.entries) == 2 * (3 * 3 - 2)


def quadratic_races(races: Sequence[Race], *_: Any, **__: Any) -> dict[tuple[str, str], Timing]:
    """As of a machine on which everything takes its batch squared."""
    timings = {}
    for problem in races:
        batch = int(problem.name.partition("batch ")[2].partition(",")[0])
        contenders: Sequence[Contender] = problem.contenders()
        for contender in contenders:
            contender.runs[0]()
            timings[problem.name, contender.name] = timing_of(0.5 * batch**2)
    return timings


def test_models_are_measured_packed_and_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "run_races", quadratic_races)
    result = profile([], ["resnet_vae"])
    sweeps = sweeps_of(result, "resnet_vae")
    assert list(sweeps) == [(s.axis, c) for s in SWEEPS for c in ("packed", "float32")]
    for contender in ("packed", "float32"):
        batch, width = sweeps["batch", contender], sweeps["width", contender]
        assert batch["seconds"] == [0.5, 2, 8]
        assert batch["exponent"] == pytest.approx(2)
        assert batch["expected"] == pytest.approx(1)
        assert width["exponent"] == pytest.approx(0)
        assert 1 < width["expected"] < 2  # stem, head and latents are as wide as ever
        assert sweeps["side", contender]["expected"] == pytest.approx(2)
        assert min(batch["predicted"]) > 0
    assert {entry.images for entry in result.entries} == {1, 2, 4}


def made_up(subjects: int, *, predicted: float | None) -> Result:
    """A result whose times grow with the square."""
    sweeps = []
    for i in range(subjects):
        for axis, contender in (("width", "tribin"), ("side", "torch float32")):
            values, seconds = [8, 16, 64], [1e-3, 4e-3, 64e-3]
            sweeps.append(
                scaling.Scaling(
                    f"subject {i}", contender, axis, values, seconds,
                    [predicted and predicted * value for value in seconds],
                    *power_law(values, seconds), 2.0,
                )
            )  # fmt: skip
    entry = Entry("subject 0", "tribin", timing_of(1e-3))
    details = {"sweeps": json.loads(json.dumps([asdict(sweep) for sweep in sweeps]))}
    return Result.of_now("scaling", CPU, {}, CEILINGS, [entry], details)


def test_the_table_has_exponents_and_the_predicted_share() -> None:
    text = table(made_up(2, predicted=0.25))
    assert max(map(len, text.splitlines())) <= 100
    row = "width, tribin 8 64 1.00 ms 64.0 ms 2.00 ± 0.00 2.00 25%–25%"
    assert text.count("subject 1") == 1
    assert [" ".join(line.split()) for line in text.splitlines()].count(row) == 2


def test_the_table_says_where_no_ceiling_is_known() -> None:
    assert "unknown" in table(made_up(1, predicted=None))


@pytest.mark.parametrize("predicted", [0.25, None])
def test_plots_show_every_sweep(predicted: float | None) -> None:
    from tribin.profiling.report.scaling import plots as figures

    result = made_up(2, predicted=predicted)
    drawn = figures(result)
    assert list(drawn) == ["scaling", "prediction"]
    panels = drawn["scaling"].axes
    assert len(panels) == 2 * 2
    points, fitted, expected = panels[0].lines
    assert list(points.get_xydata()[:, 1]) == [1e-3, 4e-3, 64e-3]
    assert fitted.get_ydata() == pytest.approx([1e-3, 4e-3, 64e-3])
    assert expected.get_ydata() == pytest.approx(fitted.get_ydata())  # of one exponent
    measured = [line for line in drawn["prediction"].axes[0].lines if len(line.get_xdata()) == 3]
    assert len(measured) == (4 if predicted else 0)
    assert all(image.startswith(b"\x89PNG") for image in plots(result).values())
