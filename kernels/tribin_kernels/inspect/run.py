"""Compile many cases, on every core."""

import multiprocessing
import os
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor

from tribin_kernels.inspect.case import TARGETS, record_case
from tribin_kernels.inspect.cases import CASES
from tribin_kernels.inspect.compile import Report, compile_launch
from tribin_kernels.launch_table import LaunchTableError


def select(kernels: Collection[str], targets: Collection[str]) -> list[tuple[int, str]]:
    """Cases, by their index in `CASES`, and targets: those of the kernels and targets named."""
    return [
        (index, target)
        for index, case in enumerate(CASES)
        for target in targets
        if case.kernel in kernels and case.runs_on(TARGETS[target])
    ]


def compile_cases(selected: Iterable[tuple[int, str]]) -> Iterator[list[Report]]:
    """The reports of each case and target selected, one for each of its launches, in order.

    Raises:
        LaunchTableError: a launch table is wrong.
        RuntimeError: Triton interprets kernels, or a case cannot be compiled.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=spawn) as pool:
        yield from pool.map(_reports, selected)


def _reports(selected: tuple[int, str]) -> list[Report]:
    case, target = CASES[selected[0]], TARGETS[selected[1]]
    try:
        return [compile_launch(launch, target, case.name) for launch in record_case(case, target)]
    except LaunchTableError:
        raise
    except Exception as error:
        what = f"{case.kernel}, {case.name}"
        raise RuntimeError(f"{what} cannot be compiled for {selected[1]}") from error
