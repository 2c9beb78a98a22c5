"""A roofline: what memory and arithmetic allow, and how much of it each contender reaches."""

from __future__ import annotations

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


def roofline_plot(result: Result) -> Figure:
    """Operations a second over operations a byte: a colour for each contender, a marker an op.

    What has no operations is left out. The lines are the ceilings on what is multiplied, as far as
    they are known.
    """
    from matplotlib.figure import Figure  # takes its time, and only plots need it

    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.add_subplot(
        xscale="log", yscale="log", xlabel="operations per byte", ylabel="operations/s"
    )
    plotted = [entry for entry in result.entries if entry.operations and entry.bytes]
    _draw_points(axes, result, plotted)
    if "copy" in result.ceilings and plotted:
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
    copy = ceilings["copy"]
    used = {entry.arithmetic for entry in plotted}
    flat = sorted((value, name) for name, value in ceilings.items() if name in used)
    ridges = [value / copy for value, _ in flat]
    intensities = [*map(_intensity, plotted), *ridges]
    left, right = min(intensities) / 2, 2 * max(intensities)
    top = max(ridges, default=right)
    axes.plot([left, top], [copy * left, copy * top], color="black", linewidth=1)
    _name(axes, f"copy {rate('copy', copy)}", left, copy * left, "left", below=True)
    nexts = [value for value, _ in flat[1:]]
    for i, (value, name) in enumerate(flat):
        axes.plot([value / copy, right], [value, value], color="black", linewidth=1)
        below = i < len(nexts) and nexts[i] < CLOSE * value
        _name(axes, f"{name} {rate(name, value)}", right, value, "right", below=below)


def _name(axes: Axes, text: str, x: float, y: float, side: str, *, below: bool) -> None:
    axes.annotate(
        text, (x, y), (8 if side == "left" else 0, -3 if below else 3),
        textcoords="offset points", ha=side, va="top" if below else "bottom", fontsize="small",
        bbox={"color": "white", "alpha": 0.8, "pad": 0.5},
    )  # fmt: skip
