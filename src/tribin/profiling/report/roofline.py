"""A roofline: what memory and arithmetic allow, and how much of it each contender reaches."""

from __future__ import annotations

import math
from itertools import cycle
from typing import TYPE_CHECKING

from tribin.profiling.report.by_op import contenders, problems_by_op
from tribin.profiling.report.text import rate
from tribin.profiling.result import Entry, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "osD^vP*X<>p"
CLOSE = 1.3
"""A ceiling this much below the next has its name below its line, where there is room."""


def roofline_plot(result: Result) -> Figure | None:
    """Operations a second over operations a byte: a colour for each contender, a marker an op.

    What has no operations is left out; None if that is everything. The lines are the ceilings on
    what is multiplied, as far as they are known.
    """
    from matplotlib.figure import Figure  # takes its time, and only plots need it

    plotted = [entry for entry in result.entries if entry.operations and entry.bytes]
    if not plotted:
        return None
    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.add_subplot(
        xscale="log", yscale="log", xlabel="operations per byte", ylabel="operations/s"
    )
    _draw_points(axes, result, plotted)
    if "copy" in result.ceilings:
        _draw_ceilings(axes, result.ceilings, plotted)
    axes.grid(alpha=0.2)
    figure.legend(loc="outside right upper", fontsize="small")
    return figure


def _draw_points(axes: Axes, result: Result, plotted: list[Entry]) -> None:
    colors = {name: f"C{i}" for i, name in enumerate(contenders(result))}
    markers = dict(zip(problems_by_op(result), cycle(MARKERS), strict=False))
    ops = [entry.problem.partition(" ")[0] for entry in plotted]
    for op, entry in zip(ops, plotted, strict=True):
        point = (_intensity(entry), entry.operations / entry.timing.median)
        axes.plot(*point, markers[op], color=colors[entry.contender], alpha=0.7)
    for name in dict.fromkeys(entry.contender for entry in plotted):
        axes.plot([], [], "s", color=colors[name], label=name)
    for op in dict.fromkeys(ops):
        axes.plot([], [], markers[op], color="black", fillstyle="none", label=op)


def _intensity(entry: Entry) -> float:
    return entry.operations / entry.bytes


def _draw_ceilings(axes: Axes, ceilings: dict[str, float], plotted: list[Entry]) -> None:
    """With their names where there are no points: above the slope, and to the right."""
    copy = ceilings["copy"]
    used = {entry.arithmetic for entry in plotted}
    rates = sorted((value, name) for name, value in ceilings.items() if name in used)
    ridges = [value / copy for value, _ in rates]
    intensities = [*map(_intensity, plotted), *ridges]
    left, right = min(intensities) / 2, 6 * max(intensities)
    top = max(ridges, default=right)
    axes.plot([left, top], [copy * left, copy * top], color="black", linewidth=1)
    middle = math.sqrt(left * top)
    _name(axes, f"copy {rate('copy', copy)}  ", middle, copy * middle)
    for value, name in rates:
        crowded = any(value < other < CLOSE * value for other, _ in rates)
        axes.plot([value / copy, right], [value, value], color="black", linewidth=1)
        _name(axes, f"{name} {rate(name, value)}", right, value, below=crowded)


def _name(axes: Axes, text: str, x: float, y: float, *, below: bool = False) -> None:
    axes.annotate(
        text, (x, y), (0, -3 if below else 3), textcoords="offset points", fontsize="small",
        ha="right", va="top" if below else "bottom",
    )  # fmt: skip
