"""Time candidate configurations on a GPU, and make a launch table of the fastest."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product, zip_longest
from typing import Any

import torch
from torch import Tensor
from triton.errors import TritonError
from triton.testing import do_bench_cudagraph

from tribin_kernels.inspect.case import Case
from tribin_kernels.target import Target

CANDIDATES: dict[str, dict[str, tuple[int, ...]]] = {
    "bit_mma": {
        "warps_m": (2, 4),
        "warps_n": (1, 2, 4),
        "tiles_m": (1, 2, 4),
        "groups_n": (2, 4),
    },
    "int8_mma": {
        "block_pixels": (64, 128, 256),
        "block_outputs": (64, 128),
        "num_warps": (4, 8),
        "num_stages": (2, 3, 4),
    },
    "pack_activations": {"bytes_per_thread": (1, 2, 4), "num_warps": (2, 4, 8)},
    "popcount": {"block_outputs": (4, 8, 16, 32), "block_words": (64, 256), "num_warps": (2, 4, 8)},
    "real_mma": {
        "block_outputs": (64, 128, 256),
        "block_pixels": (16, 64, 128, 256),
        "split": (1, 8),
        "num_warps": (4, 8),
        "num_stages": (2, 4),
    },
    "weight_gradient": {
        "block_channels": (128, 256),
        "block_outputs": (64, 128),
        "split": (4, 7, 14),
        "num_warps": (4, 8),
        "num_stages": (2, 3, 4),
    },
}
"""The values to try, by kernel and field: each combination of them is a candidate."""

Timer = Callable[[Callable[[], Any]], float]
"""Gives the milliseconds that a call takes."""


@dataclass(frozen=True)
class Trial:
    """One configuration in one case.

    Args:
        case, config: what was called.
        milliseconds: infinite where there is a fault.
        fault: why the configuration cannot be used, or nothing.
    """

    case: Case
    config: Any
    milliseconds: float
    fault: str = ""


def median_time(call: Callable[[], Any]) -> float:
    """Milliseconds of a call in a CUDA graph, without what it costs to launch."""
    return float(do_bench_cudagraph(call, return_mode="median"))


def try_candidates(
    cases: Iterable[Case], device: torch.device, timer: Timer = median_time
) -> Iterator[Trial]:
    """Check and time the configuration in use of each case, then every candidate for it."""
    for case in cases:
        call, in_use = case.prepare(device), case.config(device)
        expected = call(in_use)
        for config in dict.fromkeys([in_use, *candidates(case)]):
            yield _trial(case, config, partial(call, config), expected, timer)


def candidates(case: Case) -> list[Any]:
    """Every combination of the values that `CANDIDATES` has for the case's kernel."""
    assert case.config_class is not None
    grid = CANDIDATES[case.kernel]
    return [case.config_class(**dict(zip(grid, v, strict=True))) for v in product(*grid.values())]


def launch_table(target: Target, trials: Iterable[Trial]) -> dict[str, Any]:
    """The launch table that the trials make, see `tribin_kernels.launch_table`.

    Cases with as many rows share a configuration: of those that none of them failed with, the one
    with the least product of times.
    """
    groups: dict[tuple[str, int], list[Trial]] = defaultdict(list)
    for trial in trials:
        groups[trial.case.kernel, trial.case.sizes["rows"]].append(trial)
    section: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for (kernel, rows), group in sorted(groups.items(), key=lambda item: item[0]):
        section[kernel].append({"rows_at_most": rows, "config": asdict(_fastest(group))})
    return {target.device_name: {kernel: _merged(listed) for kernel, listed in section.items()}}


def _trial(case: Case, config: Any, call: Callable[[], Any], expected: Any, timer: Timer) -> Trial:
    try:
        if not _same(call(), expected):
            return Trial(case, config, math.inf, "wrong result")
    except (TritonError, RuntimeError, ValueError) as error:
        return Trial(case, config, math.inf, str(error).partition("\n")[0])
    return Trial(case, config, timer(call))


def _same(result: Any, expected: Any) -> bool:
    if isinstance(expected, Tensor):
        return torch.equal(result, expected)
    if isinstance(expected, tuple):
        return all(map(_same, result, expected))
    return result is expected


def _fastest(trials: list[Trial]) -> Any:
    times: dict[Any, list[float]] = defaultdict(list)
    for trial in trials:
        times[trial.config].append(trial.milliseconds)
    most = max(map(len, times.values()))  # one that only a single case has in use counts for less
    return min((c for c in times if len(times[c]) == most), key=lambda c: math.prod(times[c]))


def _merged(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the entries that the next one repeats, and without the limit of the last one."""
    kept = [
        entry
        for entry, following in zip_longest(entries, entries[1:])
        if following is None or entry["config"] != following["config"]
    ]
    return [*kept[:-1], {"config": kept[-1]["config"]}]
