"""The stopwatch, on a clock that the tests set."""

import math
import random
import statistics
from collections.abc import Callable, Iterator
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from tribin.profiling import timing
from tribin.profiling.timing import Contender, Race, race, run_races

CPU = torch.device("cpu")


class Clock:
    """Time that passes only when a contender says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def run(self, name: str, seconds: float) -> Callable[[], None]:
        def call() -> None:
            self.now += seconds
            self.calls.append(name)

        return call


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock.now)
    return clock


def changes(calls: list[str]) -> list[str]:
    return calls[:1] + [b for a, b in pairwise(calls) if a != b]


def test_contenders_take_turns_and_problems_too(clock: Clock) -> None:
    races = [
        Race(name, lambda name=name: [Contender(c, [clock.run(name + c, 0.03)]) for c in "ab"])
        for name in ("first ", "second ")
    ]
    seen: list[str] = []
    timings = run_races(races, CPU, rounds=3, progress=seen.append)
    assert changes(clock.calls) == ["first a", "first b", "second a", "second b"] * 3
    assert seen == ["first ", "second "] * 3
    assert set(timings) == {("first ", "a"), ("first ", "b"), ("second ", "a"), ("second ", "b")}


def test_contenders_are_made_anew_for_each_round(clock: Clock) -> None:
    made = []

    def contenders() -> list[Contender]:
        made.append(clock.now)
        return [Contender("a", [clock.run("a", 0.1)])]

    run_races([Race("", contenders)], CPU, rounds=4)
    assert len(made) == 4


def test_inputs_rotate(clock: Clock) -> None:
    runs = [clock.run(str(index), 1e-6) for index in range(7)]
    race([Contender("a", runs)], CPU, rounds=2, seconds=1e-3)
    for before, after in pairwise(clock.calls):
        assert int(after) == (int(before) + 1) % 7 or after == "0"  # a turn begins with the first


@pytest.mark.parametrize("seconds", [1e-6, 3e-4, 0.5])
def test_seconds_are_those_of_a_call(clock: Clock, seconds: float) -> None:
    """Whether a sample is of one call or of hundreds."""
    result = race([Contender("a", [clock.run("a", seconds)])], CPU)["a"]
    for value in (result.median, result.lower_quartile, result.upper_quartile):
        assert value == pytest.approx(seconds)
    assert result.noise == pytest.approx(0, abs=1e-9)
    assert result.samples >= 10


def test_a_sample_is_longer_than_the_clock_takes(clock: Clock) -> None:
    race([Contender("a", [clock.run("a", 1e-6)])], CPU, rounds=2, seconds=2e-3)
    # warm-up and calibration, then 10 samples of 200 calls in each round
    assert len(clock.calls) == pytest.approx(2 * (4 + 2000), rel=0.15)


def test_what_happens_once_is_not_timed(clock: Clock) -> None:
    first = [True]

    def run() -> None:
        clock.now += 10 if first.pop() else 1e-3
        first.append(False)

    assert race([Contender("a", [run])], CPU)["a"].median == pytest.approx(1e-3)


def test_medians_and_quartiles() -> None:
    result = timing.timing([[1.0, 2.0, 3.0], [4.0, 5.0]])
    assert (result.lower_quartile, result.median, result.upper_quartile) == (2.0, 3.0, 4.0)
    assert result.samples == 5


def test_noise_is_the_distance_of_two_turns() -> None:
    """By hand: medians 2 and 4 deviate by √2, two such by 2, and t of one degree is 12.706."""
    assert timing.timing([[2.0], [4.0]]).noise == pytest.approx(12.706 * 2)
    # more turns than the table has: the last, which is somewhat too large
    turns = [[float(index % 2)] for index in range(20)]
    expected = 2.306 * math.sqrt(2) * statistics.stdev(map(sum, turns))
    assert timing.timing(turns).noise == pytest.approx(expected)


@pytest.mark.parametrize("drift", [0.0, 0.02, 0.2])
def test_two_runs_differ_by_less_than_the_noise_in_19_of_20(drift: float) -> None:
    """Also where the machine's speed wanders, over as many turns as a run has."""
    generator = random.Random(0)
    speeds = wandering(generator, drift)
    within = 0
    for _ in range(400):
        first, second = (measurement(generator, speeds) for _ in range(2))
        limit = math.hypot(first.noise, second.noise) / math.sqrt(2)
        within += abs(first.median - second.median) <= limit
    assert within >= 0.95 * 400


def wandering(generator: random.Random, drift: float) -> Iterator[float]:
    """A walk that returns to 1, and forgets a third of where it was from turn to turn."""
    deviation = 0.0
    while True:
        deviation = 2 / 3 * deviation + drift * generator.gauss(0, 1)
        yield math.exp(deviation)


def measurement(generator: random.Random, speeds: Iterator[float]) -> timing.Timing:
    turns = []
    for _ in range(timing.ROUNDS):
        speed = next(speeds)
        turns.append([speed * generator.lognormvariate(0, 0.05) for _ in range(8)])
    return timing.timing(turns)


@pytest.mark.parametrize("captured", [True, False])
def test_on_a_gpu(monkeypatch: pytest.MonkeyPatch, clock: Clock, captured: bool) -> None:
    """As far as a CPU can tell: what is captured, replayed and divided by."""
    log: list[str] = []
    gpu = FakeGpu(clock, log)
    for name in ("Event", "Stream", "CUDAGraph", "graph", "stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, getattr(gpu, name))
    runs = [clock.run(name, 1e-3) for name in "xyz"]
    result = race(
        [Contender("a", runs, captured=captured)], torch.device("cuda"), rounds=2, seconds=0.1
    )["a"]
    assert result.median == pytest.approx(1e-3)
    assert log.count("capture") == (2 if captured else 0)
    assert ("replay" in log) == captured
    if captured:
        assert clock.calls == ["x", "y", "z"] * 4  # to warm up, and for the capture


class FakeGpu:
    """Events read the test's clock; a graph replays what it saw, at the same price."""

    def __init__(self, clock: Clock, log: list[str]) -> None:
        self.clock, self.log = clock, log

    def Event(self, enable_timing: bool) -> SimpleNamespace:  # noqa: N802
        event = SimpleNamespace(at=0.0, synchronize=lambda: None)
        event.record = lambda: setattr(event, "at", self.clock.now)
        event.elapsed_time = lambda end: 1000 * (end.at - event.at)
        return event

    def Stream(self) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(wait_stream=lambda other: None)

    current_stream = Stream

    def CUDAGraph(self) -> SimpleNamespace:  # noqa: N802
        graph = SimpleNamespace(price=0.0)

        def replay() -> None:
            self.log.append("replay")
            self.clock.now += graph.price

        graph.replay = replay
        return graph

    def stream(self, stream: object) -> "Context":
        return Context(lambda spent: None, self.clock)

    def graph(self, graph: SimpleNamespace) -> "Context":
        self.log.append("capture")
        return Context(lambda spent: setattr(graph, "price", spent), self.clock)


class Context:
    def __init__(self, done: Callable[[float], None], clock: Clock) -> None:
        self.done, self.clock = done, clock

    def __enter__(self) -> None:
        self.start = self.clock.now

    def __exit__(self, *_: object) -> None:
        self.done(self.clock.now - self.start)
