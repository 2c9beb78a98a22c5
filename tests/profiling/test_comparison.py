"""What a comparison of two profiles calls slower, faster and the same."""

import random
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from tests.profiling.results import CEILINGS, PROVENANCE, entry, result

from tribin.errors import InputError
from tribin.profiling.comparison import compare, table
from tribin.profiling.result import Entry
from tribin.profiling.timing import Contender, Timing, race, timing

CPU = torch.device("cpu")


def verdict(old: Timing, new: Timing) -> str:
    comparison = compare(*(result(Entry("op shape", "tribin", each)) for each in (old, new)))
    (change,) = comparison.changes
    assert comparison.is_slower == (change.verdict == "slower")
    return change.verdict


def measured(draw: Callable[[], float], turns: int, *, phases: bool) -> Timing:
    """Twenty samples a turn, of one distribution; with phases, a turn has a speed of its own."""
    speeds = [draw() if phases else 1.0 for _ in range(turns)]
    return timing([[speed * draw() for _ in range(20)] for speed in speeds])


DISTRIBUTIONS: dict[str, Callable[[random.Random], float]] = {
    "normal": lambda rng: max(rng.gauss(1, 0.03), 0.1),
    "uniform": lambda rng: rng.uniform(0.9, 1.1),
    "skewed": lambda rng: 1 + rng.expovariate(20),
    "log-normal": lambda rng: rng.lognormvariate(0, 0.1),
}


@pytest.mark.parametrize("phases", [False, True])
@pytest.mark.parametrize("turns", [2, 5, 9])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_same_twice_is_the_same_in_19_of_20(name: str, turns: int, phases: bool) -> None:
    rng = random.Random(0)
    pairs = 400
    same = 0
    for _ in range(pairs):
        old, new = (
            measured(lambda: DISTRIBUTIONS[name](rng), turns, phases=phases) for _ in range(2)
        )
        same += verdict(old, new) == "="
    assert same >= 0.95 * pairs


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_slowdown_beyond_the_noise_is_seen(name: str) -> None:
    rng = random.Random(0)
    for _ in range(50):
        old, new = (
            measured(lambda times=times: times * DISTRIBUTIONS[name](rng), 5, phases=False)
            for times in (1, 2)
        )
        assert verdict(old, new) == "slower"
        assert verdict(new, old) == "faster"


def test_a_contender_that_was_slowed_down_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raced on this thread's own time, of which nothing else that runs here takes any."""
    monkeypatch.setattr(time, "perf_counter", time.thread_time)

    def work(times: int) -> Callable[[], int]:
        return lambda: sum(range(20_000 * times))

    def profile(times: int) -> list[Entry]:
        contenders = [Contender("kept", [work(1)]), Contender("slowed down", [work(times)])]
        timings = race(contenders, CPU, rounds=5, seconds=0.02)
        return [Entry("op shape", name, found) for name, found in timings.items()]

    comparison = compare(result(*profile(1)), result(*profile(5)))
    verdicts = {change.contender: change.verdict for change in comparison.changes}
    assert verdicts["slowed down"] == "slower"


@pytest.mark.parametrize(
    ("new", "expected"),
    [(1.0499, "="), (1.0501, "slower"), (0.9501, "="), (0.9499, "faster"), (1.0, "=")],
)
def test_the_noise_is_that_of_both(new: float, expected: str) -> None:
    """Noises of 1% and 7% make one of 5%."""
    old_timing = Timing(1.0, 1.0, 1.0, 0.01, 10)
    new_timing = Timing(new, new, new, 0.07, 10)
    assert verdict(old_timing, new_timing) == expected


def test_numbers_of_a_change() -> None:
    (change,) = compare(
        result(entry("op shape", "tribin", 0.004, noise=0.01)),
        result(entry("op shape", "tribin", 0.005, noise=0.056)),
    ).changes
    assert (change.problem, change.contender) == ("op shape", "tribin")
    assert (change.old, change.new, change.verdict) == (0.004, 0.005, "slower")
    assert change.change == pytest.approx(0.25)
    assert change.noise == pytest.approx(0.05, rel=2e-3)  # √((0.04² + 0.28²)/2) ms of 4 ms


OLD = result(
    entry("op a", "tribin", 1e-3), entry("op a", "simulated", 2e-3), entry("op b", "tribin", 1.0)
)
NEW = result(
    entry("op b", "tribin", 0.5), entry("op a", "tribin", 1.3e-3), entry("op c", "tribin", 1.0),
    entry("op a", "compiled", 1.0),
)  # fmt: skip


def test_entries_are_matched_by_problem_and_contender() -> None:
    comparison = compare(OLD, NEW)
    assert [(c.problem, c.contender, c.verdict) for c in comparison.changes] == [
        ("op a", "tribin", "slower"), ("op b", "tribin", "faster"),
    ]  # fmt: skip
    assert comparison.only_old == [("op a", "simulated")]
    assert comparison.only_new == [("op c", "tribin"), ("op a", "compiled")]
    assert comparison.conditions == {}


def test_conditions_and_ceilings_that_changed() -> None:
    new = replace(
        NEW,
        provenance={**PROVENANCE, "device": "a CPU, 1 threads", "torch": "2.14.0", "date": "later"},
        ceilings={"copy": 0.97 * CEILINGS["copy"], "float32": 1.01 * CEILINGS["float32"]},
        settings={"dtype": "bfloat16", "rounds": 5},
    )
    comparison = compare(OLD, new)
    assert comparison.conditions == {
        "device": ("a CPU, 2 threads", "a CPU, 1 threads"),
        "torch": ("2.13.0", "2.14.0"),
        "dtype": ("float32", "bfloat16"),
        "rounds": (None, 5),
    }
    assert comparison.ceilings == pytest.approx({"copy": -0.03, "float32": 0.01})
    text = table(comparison)
    assert "of the same device: a CPU, 2 threads, now a CPU, 1 threads." in text
    assert "ceilings: copy -3.0%, float32 +1.0%." in text


def test_table() -> None:
    changes, notes = table(compare(OLD, NEW)).split("\n\n")
    header, *rows = changes.splitlines()
    assert header.split() == ["old", "new", "change", "noise"]
    assert [[cell.strip() for cell in row.split("  ") if cell] for row in rows] == [
        ["op a, tribin", "1.00 ms", "1.30 ms", "+30.0%", "± 2.3%", "slower"],
        ["op b, tribin", "1.00 s", "500 ms", "-50.0%", "± 1.6%", "faster"],
    ]
    assert notes.splitlines() == [
        "Beyond the noise, 1 of 2 are slower and 1 faster.",
        "The machine's own ceilings: copy +0.0%, float32 +0.0%, bfloat16 +0.0%, bit +0.0%.",
        "Only in the old: op a, simulated.",
        "Only in the new: op c, tribin.",
        "Only in the new: op a, compiled.",
    ]


def test_no_line_is_wider_than_a_hundred_columns() -> None:
    name = f"packed_conv2d {'128x' * 30},signs,residual,gate"
    old, new = (result(entry(name, "simulated, compiled", s), entry("x", "y", s)) for s in (1, 2))
    new = replace(new, settings={"shapes": [name]})
    lines = table(compare(old, new)).splitlines()
    assert max(map(len, lines)) <= 100
    assert "".join(line.split("  ")[0].strip() for line in lines[1:4]).startswith(name.split()[0])


def test_what_cannot_be_compared() -> None:
    with pytest.raises(
        InputError, match=r"OLD is a profile of kind 'kernels', NEW one of .*'step'"
    ):
        compare(OLD, replace(NEW, kind="step"))
    with pytest.raises(InputError, match="OLD and NEW have no contender at any problem in common"):
        compare(OLD, result(entry("op z", "tribin", 1.0)))
