"""How many times as long as tribin the baselines take, problem by problem."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tribin.profiling.report.by_op import contenders, problems_by_op, ratios
from tribin.profiling.result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BAR, GAP, MARGINS = 0.09, 0.12, 1.3
"""Inches: of a bar, between two problems, above and below them all."""


def ratios_plot(result: Result) -> Figure | None:
    """Bars for each problem, on a logarithmic axis: from 1, tribin's time, to a baseline's.

    A problem without baselines has none; None if no problem has.
    """
    from matplotlib.figure import Figure  # takes its time, and only plots need it

    problems = {
        f"{op}  {shape}": ratios(problem)
        for op, shapes in problems_by_op(result).items()
        for shape, problem in shapes.items()
        if ratios(problem)
    }
    if not problems:
        return None
    inches = sum(GAP + BAR * len(of_problem) for of_problem in problems.values())
    figure = Figure(figsize=(10, MARGINS + inches), layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel="times as long as tribin")
    _draw_bars(axes, problems, {name: f"C{i}" for i, name in enumerate(contenders(result))})
    _draw_axes(axes, inches)
    figure.legend(loc="outside upper center", ncols=4, fontsize="small")
    return figure


def _draw_bars(axes: Axes, problems: dict[str, dict[str, float]], colors: dict[str, str]) -> None:
    """From top to bottom, in inches; a baseline's name is given to its first bar alone."""
    named, middles, y = set(), [], GAP / 2
    for of_problem in problems.values():
        middles.append(y + BAR * len(of_problem) / 2)
        for name, ratio in of_problem.items():
            label = "" if name in named else name
            axes.barh(y, ratio - 1, BAR, left=1, align="edge", color=colors[name], label=label)
            named.add(name)
            y += BAR
        y += GAP
    axes.set_yticks(middles, list(problems), fontsize="x-small", parse_math=False)


def _draw_axes(axes: Axes, inches: float) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.axvline(1, color="black", linewidth=1)
    axes.set_ylim(inches, 0)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}x"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params("x", top=True, labeltop=True)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
