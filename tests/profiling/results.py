"""Results of profiles that nobody measured."""

from tribin.profiling.result import Entry, Result
from tribin.profiling.timing import Timing

CEILINGS = {"copy": 50e9, "float32": 200e9, "bfloat16": 400e9, "bit": 5e12}
PROVENANCE = {
    "device": "a CPU, 2 threads", "torch": "2.13.0", "triton": "3.7.1", "cuda": None,
    "tribin": "0.1.0", "commit": 10 * "0123456789abcdef"[:4] + "-dirty",
    "date": "2026-01-02T03:04:05+00:00",
}  # fmt: skip


def entry(
    problem: str,
    contender: str,
    seconds: float,
    *,
    noise: float = 0.02,
    operations: int = 0,
    bytes: int = 0,
    arithmetic: str | None = None,
) -> Entry:
    """An entry whose noise is a share of its median, between quartiles of 1 and 2 per cent."""
    timing = Timing(seconds, 0.99 * seconds, 1.02 * seconds, noise * seconds, 50)
    return Entry(problem, contender, timing, operations, bytes, arithmetic)


def result(*entries: Entry, **fields: object) -> Result:
    """Of kernels, unless the fields say otherwise."""
    given = {
        "kind": "kernels", "settings": {"dtype": "float32"}, "provenance": PROVENANCE,
        "clocks": {"core": 3700.0}, "ceilings": CEILINGS, "entries": list(entries),
        "details": {"skipped": {}},
    }  # fmt: skip
    return Result(**{**given, **fields})  # type: ignore[arg-type]
