"""The report of a scaling profile: fitted exponents beside the expected ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from statistics import fmean
from typing import TYPE_CHECKING, Any

from tribin.profiling.report.text import duration, fitted_columns, paragraph
from tribin.profiling.result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

MARKERS = "osD^vP*X"

HEADER = ("from", "to", "fastest", "slowest", "exponent", "expected", "predicted of it")

NOTES = (
    "The exponent is that of the power of the size that fits the times best, with its standard "
    "error; expected is the one of the operations. An exponent below it is one of sizes at which "
    "something else than operations takes the time. Predicted is what operations and bytes take at "
    "the ceilings, as a share of the measured time: at the first size and at the last."
)

Sweeps = Sequence[Mapping[str, Any]]
"""The fields of `tribin.profiling.scaling.Scaling`."""


def table(result: Result) -> str:
    """For each subject the exponents along each axis, by contender."""
    sections = [
        fitted_columns([(subject, *HEADER), *map(_row, sweeps)])
        for subject, sweeps in _by(result.details["sweeps"], "subject").items()
    ]
    return "\n\n".join([*sections, paragraph(NOTES)])


def _by(sweeps: Sweeps, field: str) -> dict[str, list[Mapping[str, Any]]]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for sweep in sweeps:
        groups.setdefault(sweep[field], []).append(sweep)
    return groups


def _row(sweep: Mapping[str, Any]) -> tuple[str, ...]:
    values, seconds = sweep["values"], sweep["seconds"]
    return (
        f"{sweep['axis']}, {sweep['contender']}",
        str(values[0]),
        str(values[-1]),
        duration(min(seconds)),
        duration(max(seconds)),
        f"{sweep['exponent']:.2f} ± {sweep['standard_error']:.2f}",
        f"{sweep['expected']:.2f}",
        _shares(sweep),
    )


def _shares(sweep: Mapping[str, Any]) -> str:
    if None in sweep["predicted"]:
        return "unknown"
    ends = (0, -1)
    return "–".join(f"{sweep['predicted'][i] / sweep['seconds'][i]:.0%}" for i in ends)


def plots(result: Result) -> dict[str, Figure]:
    """``scaling``: times along each axis; ``prediction``: the cost model's beside them."""
    sweeps = result.details["sweeps"]
    return {"scaling": _scaling_plot(sweeps), "prediction": _prediction_plot(sweeps)}


def _scaling_plot(sweeps: Sweeps) -> Figure:
    """A row of panels for each subject, one an axis: points, fitted line, expected slope."""
    from matplotlib.figure import Figure  # takes its time, and only plots need it

    subjects, axes_names = _by(sweeps, "subject"), list(_by(sweeps, "axis"))
    figure = Figure(figsize=(4 * len(axes_names), 0.6 + 2.8 * len(subjects)), layout="constrained")
    panels = figure.subplots(len(subjects), len(axes_names), squeeze=False)
    colors = _colors(sweeps)
    for row, (subject, of_subject) in zip(panels, subjects.items(), strict=True):
        for panel, name in zip(row, axes_names, strict=True):
            _draw(panel, [sweep for sweep in of_subject if sweep["axis"] == name], colors)
            panel.set(xlabel=name, ylabel="seconds")
            panel.set_title(subject, fontsize="small")
    handles = [
        *(_handle(name, color=color, marker="o") for name, color in colors.items()),
        _handle("fitted", linestyle="-"),
        _handle("expected slope", linestyle=":"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, fontsize="small")
    return figure


def _draw(panel: Axes, sweeps: Sweeps, colors: Mapping[str, str]) -> None:
    panel.set(xscale="log", yscale="log")
    for sweep in sweeps:
        color = colors[sweep["contender"]]
        values = sweep["values"]
        panel.plot(values, sweep["seconds"], "o", color=color, markersize=4)
        panel.plot(values, _line(sweep, sweep["exponent"]), "-", color=color, linewidth=1)
        panel.plot(values, _line(sweep, sweep["expected"]), ":", color=color, linewidth=1)
        panel.set_xticks(values, list(map(str, values)))
        panel.minorticks_off()
    panel.grid(alpha=0.3)


def _line(sweep: Mapping[str, Any], exponent: float) -> list[float]:
    """The power law of that exponent through the middle of the points."""
    x, y = (fmean(map(math.log, sweep[name])) for name in ("values", "seconds"))
    return [math.exp(y + exponent * (math.log(value) - x)) for value in sweep["values"]]


def _prediction_plot(sweeps: Sweeps) -> Figure:
    """Measured over predicted seconds: the nearer to the line, the less there is to gain."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.add_subplot(
        xscale="log", yscale="log", xlabel="predicted seconds", ylabel="measured seconds"
    )
    colors = _colors(sweeps)
    markers = dict(zip(_by(sweeps, "subject"), cycle(MARKERS), strict=False))
    ends: list[float] = []
    for sweep in sweeps:
        if None not in sweep["predicted"]:
            color = colors[sweep["contender"]]
            axes.plot(sweep["predicted"], sweep["seconds"], markers[sweep["subject"]], color=color)
            ends += [*sweep["predicted"], *sweep["seconds"]]
    if ends:
        axes.axline((min(ends), min(ends)), (max(ends), max(ends)), color="black", linewidth=1)
    axes.grid(alpha=0.3)
    handles = [
        *(_handle(name, color=color, marker="s") for name, color in colors.items()),
        *(_handle(name, marker=marker, fillstyle="none") for name, marker in markers.items()),
    ]
    figure.legend(handles=handles, loc="outside right upper", fontsize="small")
    return figure


def _colors(sweeps: Sweeps) -> dict[str, str]:
    """By contender."""
    return {contender: f"C{i}" for i, contender in enumerate(_by(sweeps, "contender"))}


def _handle(label: str, **style: Any) -> Line2D:
    """Of a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], **{"color": "black", "linestyle": "", **style}, label=label)
