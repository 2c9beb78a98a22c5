"""Contenders timed in turns in one process, and how far two such measurements may differ."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import torch

ROUNDS = 5
"""How often each contender has its turn."""

SECONDS = 0.1
"""How long a turn lasts at least; it has two samples in any case."""

SAMPLE_SECONDS = 2e-4
"""A sample is as many calls as take this long together, so that the clock's own time is nothing."""

STUDENT_T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306}
"""How many of the standard deviations seen in so many turns hold the next in 19 of 20 cases."""


@dataclass(frozen=True)
class Contender:
    """One way to compute something.

    Args:
        name: what a table calls it.
        runs: the computation on different inputs, which take turns so that no cache keeps them.
        captured: on a GPU, time replays of a CUDA graph, without the overhead of launches.
    """

    name: str
    runs: Sequence[Callable[[], object]]
    captured: bool = True


@dataclass(frozen=True)
class Timing:
    """What the clock said, in seconds a call.

    Attributes:
        median: of all samples.
        lower_quartile: a quarter of them is below.
        upper_quartile: a quarter of them is above.
        noise: the medians of two measurements of the same thing differ by less in 19 of 20 cases.
        samples: how many there are.
    """

    median: float
    lower_quartile: float
    upper_quartile: float
    noise: float
    samples: int


@dataclass(frozen=True)
class Race:
    """A problem, and who is timed at it.

    Args:
        name: of the problem.
        contenders: makes them, for each round anew, so that the operands of many problems need not
            be kept; what it remembers, such as a compiled function, is its own affair.
    """

    name: str
    contenders: Callable[[], Sequence[Contender]]


def race(
    contenders: Sequence[Contender],
    device: torch.device,
    *,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
) -> dict[str, Timing]:
    """Time contenders at one problem; see `run_races`."""
    races = [Race("", lambda: contenders)]
    timings = run_races(races, device, rounds=rounds, seconds=seconds)
    return {name: timing for (_, name), timing in timings.items()}


def run_races(
    races: Sequence[Race],
    device: torch.device,
    *,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    progress: Callable[[str], None] = lambda name: None,
) -> dict[tuple[str, str], Timing]:
    """Time contenders by turns, A B A B, so that a slow phase of the machine hits all of them.

    A round goes through all problems before the next begins: what disturbs a machine lasts for
    seconds or minutes, and a problem whose turns all fall into one such phase would not know.

    Args:
        races: problems of different names; each contender is called before the clock starts.
        device: where they compute.
        rounds: how often each contender has its turn, at least 2.
        seconds: how long a turn lasts at least.
        progress: called with the problem's name before each of its rounds.

    Returns:
        By the names of problem and contender.
    """
    turns: dict[tuple[str, str], list[list[float]]] = {}
    for _ in range(rounds):
        for problem in races:
            progress(problem.name)
            for contender in problem.contenders():
                samples = _turn(_sampler(contender, device), seconds)
                turns.setdefault((problem.name, contender.name), []).append(samples)
    return {names: timing(samples) for names, samples in turns.items()}


def _turn(sample: Callable[[], tuple[float, int]], seconds: float) -> list[float]:
    """Seconds a call, sample by sample."""
    samples: list[float] = []
    elapsed = 0.0
    while elapsed < seconds or len(samples) < 2:
        taken, calls = sample()
        elapsed += taken
        samples.append(taken / calls)
    return samples


def timing(turns: Sequence[Sequence[float]]) -> Timing:
    """Summarize samples, in seconds a call, of two turns or more.

    The noise is that of a single turn: what disturbs one turn disturbs its neighbours as well, so
    that the median of all of them is hardly surer than one. It is the distance that two turns'
    medians keep in 19 of 20 cases, by Student's distribution.
    """
    samples = [sample for turn in turns for sample in turn]
    lower, median, upper = statistics.quantiles(samples, n=4, method="inclusive")
    deviation = statistics.stdev(statistics.median(turn) for turn in turns)
    noise = _student_t(len(turns)) * math.sqrt(2) * deviation
    return Timing(median, lower, upper, noise, len(samples))


def _student_t(turns: int) -> float:
    return STUDENT_T[min(turns, max(STUDENT_T))]


def _sampler(contender: Contender, device: torch.device) -> Callable[[], tuple[float, int]]:
    """A function that takes a sample: the seconds of some calls, and how many they were."""
    if device.type == "cuda":
        return _cuda_sampler(contender)
    return _cpu_sampler(contender)


def _cpu_sampler(contender: Contender) -> Callable[[], tuple[float, int]]:
    runs = cycle(contender.runs)

    def take(calls: int) -> float:
        chosen = list(islice(runs, calls))
        start = time.perf_counter()
        for run in chosen:
            run()
        return time.perf_counter() - start

    take(1)
    calls = _calls_of_a_sample(take)
    return lambda: (take(calls), calls)


def _cuda_sampler(contender: Contender) -> Callable[[], tuple[float, int]]:
    """By events; a sample has every run, so that a captured graph holds them all."""

    def all_runs() -> None:
        for run in contender.runs:
            run()

    replay = _captured(all_runs) if contender.captured else all_runs

    def take(repeats: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeats):
            replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000

    take(1)
    repeats = _calls_of_a_sample(take)
    return lambda: (take(repeats), repeats * len(contender.runs))


def _captured(run: Callable[[], None]) -> Callable[[], None]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()  # what happens once must not be captured
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    replay: Callable[[], None] = graph.replay
    return replay


def _calls_of_a_sample(take: Callable[[int], float]) -> int:
    seconds = take(1)
    if seconds < SAMPLE_SECONDS:  # the clock itself, and chance, matter then
        seconds = min(seconds, *(take(1) for _ in range(3)))
    return max(1, math.ceil(SAMPLE_SECONDS / max(seconds, 1e-7)))
