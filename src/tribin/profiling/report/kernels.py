"""The report of a profile of kernels: the shapes of each op, beside their baselines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from tribin.profiling.report.by_op import TRIBIN, Problem, contenders, problems_by_op, ratios
from tribin.profiling.report.ratios import ratios_plot
from tribin.profiling.report.roofline import roofline_plot
from tribin.profiling.report.text import (
    amount,
    duration,
    durations,
    fitted_columns,
    paragraph,
)
from tribin.profiling.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TIMES = ("median", "quartiles", "noise", "operations", "bytes", "roofline")
RATIOS = "times as long as tribin"
SHORT_NAMES = {
    "torch float32": "float32",
    "torch bfloat16": "bfloat16",
    "simulated, compiled": "compiled",
    "oneDNN int8": "int8",
    "torch._int_mm": "_int_mm",
}
"""Of baselines, at the head of a column."""

NOTES = (
    "Times are tribin's; those of the baselines are in results.json. Half of them lie between the "
    "quartiles, and two medians of the same thing differ by less than the noise in 19 of 20 cases. "
    "Operations and bytes are what a problem asks for, a second; roofline is the share of the "
    "speed that the ceilings allow."
)


def table(result: Result) -> str:
    """For each op tribin's times, and how many times as long the baselines take."""
    sections = []
    for op, problems in problems_by_op(result).items():
        sections.append(fitted_columns([(op, *TIMES), *_time_rows(result, problems)]))
        found = {name for problem in problems.values() for name in ratios(problem)}
        if baselines := [name for name in contenders(result) if name in found]:
            header = (RATIOS, *(SHORT_NAMES.get(name, name) for name in baselines))
            sections.append(fitted_columns([header, *_ratio_rows(problems, baselines)]))
    skipped = result.details.get("skipped", {})
    notes = [NOTES, *(f"Not timed: {name}: {reason}" for name, reason in skipped.items())]
    return "\n\n".join([*sections, "\n".join(map(paragraph, notes))])


def _time_rows(result: Result, problems: Mapping[str, Problem]) -> Iterator[tuple[str, ...]]:
    for shape, problem in problems.items():
        entry = problem[TRIBIN]
        timing, floor = entry.timing, result.floor(entry)
        yield (
            shape,
            duration(timing.median),
            durations(timing.lower_quartile, timing.upper_quartile),
            f"± {timing.noise / timing.median:.1%}",
            amount(entry.operations / timing.median, "op/s") if entry.operations else "",
            amount(entry.bytes / timing.median, "B/s"),
            "" if floor is None else f"{floor / timing.median:.0%}",
        )


def _ratio_rows(problems: Mapping[str, Problem], baselines: list[str]) -> Iterator[tuple[str, ...]]:
    for shape, problem in problems.items():
        times = ratios(problem)
        yield (shape, *(f"{times[name]:.2f}x" if name in times else "" for name in baselines))


def plots(result: Result) -> dict[str, Figure]:
    """``roofline``: every contender below the ceilings; ``ratios``: baselines beside tribin.

    The first is missing if nothing has operations, the second without baselines.
    """
    figures = {"roofline": roofline_plot(result), "ratios": ratios_plot(result)}
    return {name: figure for name, figure in figures.items() if figure is not None}
