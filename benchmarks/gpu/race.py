"""Contenders that compute the same thing, timed in turns in one process."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from triton.testing import do_bench, do_bench_cudagraph

ROUNDS = 3
MILLISECONDS = 30
"""How long each contender runs in a round."""


@dataclass(frozen=True)
class Contender:
    """One way to compute something.

    Args:
        name: what the table calls it.
        runs: the computation on different inputs, which take turns so that a cache does not keep
            them; one where the inputs are too large to be kept, or are meant to be.
        captured: time replays of a CUDA graph, without the launch overhead.
    """

    name: str
    runs: tuple[Callable[[], object], ...]
    captured: bool = True


@dataclass(frozen=True)
class Race:
    """Contenders side by side, the first being tribin's.

    Args:
        name: the problem.
        operations: multiplications and additions that it asks for.
        bytes_moved: through device memory at least, each input read and output written once.
        contenders: with the same result.
        ceiling: the measured rate that bounds it: "bit", "bfloat16" or "copy".
        agree: raises where the contenders' results differ by more than they may.
    """

    name: str
    operations: float
    bytes_moved: float
    contenders: tuple[Contender, ...]
    ceiling: str
    agree: Callable[[], None]


@dataclass(frozen=True)
class Lap:
    """What the clock said of one contender, in microseconds."""

    name: str
    median: float
    fastest: float
    slowest: float
    samples: int = field(repr=False)


def run(race: Race) -> list[Lap]:
    """Check that the contenders agree, then time them in turns."""
    race.agree()
    times: dict[str, list[float]] = {contender.name: [] for contender in race.contenders}
    for _ in range(ROUNDS):
        for contender in race.contenders:
            times[contender.name] += _microseconds(contender)
    return [
        Lap(name, statistics.median(values), min(values), max(values), len(values))
        for name, values in times.items()
    ]


def _microseconds(contender: Contender) -> list[float]:
    def all_runs() -> None:
        for one in contender.runs:
            one()

    if contender.captured:
        with torch.cuda.stream(torch.cuda.Stream()):
            times = do_bench_cudagraph(all_runs, rep=MILLISECONDS, return_mode="all")
    else:
        times = do_bench(all_runs, rep=MILLISECONDS, return_mode="all")
    return [1000 * value / len(contender.runs) for value in times]
