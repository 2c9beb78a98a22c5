"""The table and the plots of a model's profile, from a result made by hand."""

from typing import Any

import pytest

from tribin.profiling.report import model as report
from tribin.profiling.report import plots, table
from tribin.profiling.result import Entry, Result
from tribin.profiling.timing import Timing

PROVENANCE: dict[str, str | None] = {
    "tribin": "0.1", "commit": None, "python": "3", "torch": "2", "device": "a machine",
    "platform": "an OS", "date": "today",
}  # fmt: skip
LONG = "main_flow.coarse_columns.step_3.coupling.conditioner.blocks.9.conv"


def entry(problem: str, arm: str, seconds: float, images: int) -> Entry:
    timing = Timing(seconds, seconds, seconds, 0.05 * seconds, samples=10)
    return Entry(problem, arm, timing, operations=10, bytes=10, images=images)


def layer(name: str, kind: str, seconds: float, predicted: float | None) -> dict[str, Any]:
    return {
        "name": name, "kind": kind, "seconds": seconds, "share": seconds / 2, "operations": 0,
        "bytes": 0, "predicted_seconds": predicted,
    }  # fmt: skip


@pytest.fixture
def result() -> Result:
    """Layers of 2 seconds in all."""
    layers = [
        layer("", "Model", 0.004, 0.001),
        layer("a", "Conv", 0.5, 0.25),
        layer("b", "Conv", 0.4, 0.2),
        layer(LONG, "WeightNormConvTranspose2d", 1.09, 0.109),
        layer("c", "Small", 0.006, 0.001),
    ]
    arms = ["float32", "float32, norms folded", "trained", "packed"]
    predicted: dict[str, dict[str, float | None]] = {
        "evaluate, batch 16": dict.fromkeys(arms, 0.5), "sample, batch 16": dict.fromkeys(arms),
    }  # fmt: skip
    entries = [
        entry(problem, arm, seconds, 16)
        for problem in predicted
        for arm, seconds in zip(arms, [2.0, 1.6, 2.5, 0.5], strict=True)
    ]
    memory = {"imports": 300_000_000, "float32": 700_000_000}
    details = {"predicted": predicted, "layers": dict.fromkeys(arms, layers), "memory": memory}
    return Result("model", {}, PROVENANCE, {}, {}, entries, details)


def rows(part: str) -> list[list[str]]:
    """The cells of a part of the table, line by line."""
    return [[cell.strip() for cell in line.split("  ") if cell] for line in part.splitlines()]


def test_arms_beside_the_first(result: Result) -> None:
    evaluate, sample, *_ = report.table(result).split("\n\n")
    header = ["median", "noise", "images/s", "speed-up", "predicted", "of it"]
    assert rows(evaluate) == [
        ["evaluate, batch 16", *header],
        ["float32", "2.00 s", "± 5.0%", "8.0", "1.00x", "500 ms", "25%"],
        ["float32, norms folded", "1.60 s", "± 5.0%", "10.0", "1.25x", "500 ms", "31%"],
        ["trained", "2.50 s", "± 5.0%", "6.4", "0.80x", "500 ms", "20%"],
        ["packed", "500 ms", "± 5.0%", "32.0", "4.00x", "500 ms", "100%"],
    ]
    assert rows(sample)[1] == ["float32", "2.00 s", "± 5.0%", "8.0", "1.00x", "unknown"]


def test_layers_of_the_trained_and_the_packed_arm(result: Result) -> None:
    _, _, *parts, memory = report.table(result).split("\n\n")
    assert [parts[0], parts[3]] == ["evaluate, batch 16, trained:", "evaluate, batch 16, packed:"]
    assert parts[1:3] == parts[4:]
    times = ["time", "share", "predicted", "of it"]
    assert rows(parts[1]) == [
        ["kind of layer", "layers", *times],
        ["WeightNormConvTranspose2d", "1", "1.09 s", "54.5%", "109 ms", "10%"],
        ["Conv", "2", "900 ms", "45.0%", "450 ms", "50%"],
        ["others", "2", "10.0 ms", "0.5%", "2.00 ms", "20%"],
    ]
    assert rows(parts[2]) == [
        ["slowest layers", *times],
        [
            "main_flow.coarse_columns.step_3.coupli…conditioner.blocks.9.conv",
            "1.09 s", "54.5%", "109 ms", "10%",
        ],
        ["a", "500 ms", "25.0%", "250 ms", "50%"],
        ["b", "400 ms", "20.0%", "200 ms", "50%"],
        ["c", "6.00 ms", "0.3%", "1.00 ms", "17%"],
        ["(model)", "4.00 ms", "0.2%", "1.00 ms", "25%"],
    ]  # fmt: skip
    assert rows(memory) == [
        ["peak memory", "more than without a model"],
        ["imports", "300 MB", "0.00 B"],
        ["float32", "700 MB", "400 MB"],
    ]


def test_twelve_layers_are_named(result: Result) -> None:
    many = [layer(f"layer_{i}", "Conv", (i + 1) / 10, None) for i in range(20)]
    result.details["layers"] = {"packed": many}
    _, _, _, kinds, slowest, _ = report.table(result).split("\n\n")
    assert rows(kinds)[1][:2] == ["Conv", "20"]
    assert rows(kinds)[1][-1] == "unknown"
    assert [row[0] for row in rows(slowest)[1:]] == [f"layer_{i}" for i in range(19, 7, -1)]


def test_no_line_is_wider_than_a_hundred_columns(result: Result) -> None:
    assert max(map(len, table(result).splitlines())) <= 100


def test_plots_are_pictures(result: Result) -> None:
    found = plots(result)
    assert list(found) == ["layers", "speed"]
    assert all(image.startswith(b"\x89PNG") for image in found.values())


def test_the_bars_are_the_numbers(result: Result) -> None:
    figures = report.plots(result)
    (layers,) = figures["layers"].axes
    ends = [bar.get_x() + bar.get_width() for bar in layers.containers[-1]]
    assert ends == pytest.approx([2000] * 4)  # ms, all that each arm takes
    speed, _ = figures["speed"].axes
    assert [bar.get_width() for bar in speed.containers[0]] == pytest.approx([8, 10, 6.4, 32])
    labels = [text.get_text() for text in speed.texts]
    assert labels == ["1.00x", "1.25x", "0.80x", "4.00x"]


def test_kinds_that_have_no_colour_of_their_own_are_together(result: Result) -> None:
    kinds = [layer(str(i), f"Kind{i:02}", 1.0 + i, None) for i in range(12)]
    result.details["layers"] = {"trained": kinds, "packed": kinds[:5]}
    (layers,) = report.plots(result)["layers"].axes
    widths = {bars.get_label(): [bar.get_width() for bar in bars] for bars in layers.containers}
    assert list(widths) == [*(f"Kind{i:02}" for i in range(11, 2, -1)), "others"]
    assert widths["Kind03"] == [4000, 4000]
    assert widths["others"] == [6000, 6000]
    assert widths["Kind11"] == [12000, 0]
