"""The report of a model's profile: arms side by side, and where the time goes in them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from tribin.profiling.report.text import amount, columns, duration
from tribin.profiling.result import Entry, Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SLOWEST = 12
"""Layers that the table names."""

NAME_START, NAME_END = 38, 25
"""Characters of a long layer's name that the table shows."""

SMALL_SHARE = 0.01
"""Kinds of layers that take less of an arm's time are one line of its table."""

PLOTTED_KINDS = 9
"""Kinds of layers that have a colour of their own."""

OTHERS = "others"
TIMES = ("median", "noise", "images/s", "speed-up", "predicted", "of it")
LAYER_TIMES = ("time", "share", "predicted", "of it")

Layers = Sequence[Mapping[str, Any]]


def table(result: Result) -> str:
    """Every problem's arms, then kinds of layers and the slowest layers of the last two arms.

    The speed-up is over a problem's first arm. Predicted is what the cost model and the ceilings
    say, and "of it" the share of that speed which was reached; caches can make it more than all.
    """
    problems = _problems(result)
    sections = [_problem_table(result, name, entries) for name, entries in problems.items()]
    layers: dict[str, Layers] = result.details["layers"]
    for arm in list(layers)[-2:]:
        sections += [
            f"{next(iter(problems))}, {arm}:",
            _kinds_table(layers[arm]),
            _slowest_table(layers[arm]),
        ]
    if "memory" in result.details:
        sections.append(_memory_table(result.details["memory"]))
    return "\n\n".join(sections)


def _problems(result: Result) -> dict[str, list[Entry]]:
    grouped = groupby(result.entries, lambda entry: entry.problem)
    return {problem: list(entries) for problem, entries in grouped}


def _problem_table(result: Result, problem: str, entries: Sequence[Entry]) -> str:
    rows = [(problem, *TIMES)]
    for entry in entries:
        timing = entry.timing
        predicted = result.details["predicted"][problem][entry.contender]
        rows.append((
            entry.contender,
            duration(timing.median),
            f"± {timing.noise / timing.median:.1%}",
            f"{_images_per_second(entry):,.1f}",
            f"{entries[0].timing.median / timing.median:.2f}x",
            *_prediction(predicted, timing.median),
        ))  # fmt: skip
    return columns(rows)


def _images_per_second(entry: Entry) -> float:
    assert entry.images is not None
    return entry.images / entry.timing.median


def _prediction(predicted: float | None, seconds: float) -> tuple[str, str]:
    """The prediction, and its share of what was measured."""
    if predicted is None:
        return "unknown", ""
    return duration(predicted), f"{predicted / seconds:.0%}"


def _kinds_table(layers: Layers) -> str:
    kinds = _by_kind(layers)
    small = [kind for kind in kinds if _sum(kinds[kind], "share") < SMALL_SHARE]
    kinds[OTHERS] = [layer for kind in small for layer in kinds.pop(kind)]
    rows = [("kind of layer", "layers", *LAYER_TIMES)]
    rows += [(kind, str(len(same)), *_layer_times(same)) for kind, same in kinds.items() if same]
    return columns(rows)


def _by_kind(layers: Layers) -> dict[str, list[Mapping[str, Any]]]:
    """The layers of each kind, the kind that takes longest first."""
    kinds: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for layer in layers:
        kinds[layer["kind"]].append(layer)
    return dict(sorted(kinds.items(), key=lambda item: -_sum(item[1], "seconds")))


def _sum(layers: Layers, key: str) -> float:
    return sum(layer[key] for layer in layers)


def _layer_times(layers: Layers) -> tuple[str, str, str, str]:
    seconds = _sum(layers, "seconds")
    known = all(layer["predicted_seconds"] is not None for layer in layers)
    predicted = _sum(layers, "predicted_seconds") if known else None
    return duration(seconds), f"{_sum(layers, 'share'):.1%}", *_prediction(predicted, seconds)


def _slowest_table(layers: Layers) -> str:
    slowest = sorted(layers, key=lambda layer: -layer["seconds"])[:SLOWEST]
    rows = [("slowest layers", *LAYER_TIMES)]
    rows += [(_shortened(layer["name"] or "(model)"), *_layer_times([layer])) for layer in slowest]
    return columns(rows)


def _shortened(name: str) -> str:
    if len(name) <= NAME_START + 1 + NAME_END:
        return name
    return f"{name[:NAME_START]}…{name[-NAME_END:]}"


def _memory_table(memory: Mapping[str, int]) -> str:
    """Peaks, and what of them is more than the first, which is that without any model."""
    without = next(iter(memory.values()))
    rows = [("peak memory", "", "more than without a model")]
    rows += [(arm, amount(peak, "B"), amount(peak - without, "B")) for arm, peak in memory.items()]
    return columns(rows)


def plots(result: Result) -> dict[str, Figure]:
    """``layers``: the first problem's time by kind of layer; ``speed``: images/s of them all."""
    return {"layers": _layers_plot(result), "speed": _speed_plot(result)}


def _layers_plot(result: Result) -> Figure:
    from matplotlib.figure import Figure  # takes its time, and only plots need it

    layers: dict[str, Layers] = result.details["layers"]
    figure = Figure(figsize=(9, 1.5 + 0.7 * len(layers)), layout="constrained")
    axes = figure.add_subplot(xlabel="ms", title=f"{result.entries[0].problem}: where the time is")
    left = [0.0] * len(layers)
    for kind, seconds in _seconds_by_kind(layers).items():
        widths = [1000 * of_arm for of_arm in seconds]
        axes.barh(list(layers), widths, left=left, label=kind)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    figure.legend(loc="outside right center", fontsize="small")
    return figure


def _seconds_by_kind(layers: Mapping[str, Layers]) -> dict[str, list[float]]:
    """Of each arm; the largest kinds by themselves, the others together."""
    by_arm = [_by_kind(of_arm) for of_arm in layers.values()]
    shares = {
        kind: max(_sum(kinds.get(kind, ()), "share") for kinds in by_arm)
        for kind in {kind for kinds in by_arm for kind in kinds}
    }
    seconds: defaultdict[str, list[float]] = defaultdict(lambda: [0.0] * len(by_arm))
    for rank, kind in enumerate(sorted(shares, key=lambda kind: (-shares[kind], kind))):
        name = kind if rank < PLOTTED_KINDS else OTHERS
        for arm, kinds in enumerate(by_arm):
            seconds[name][arm] += _sum(kinds.get(kind, ()), "seconds")
    return dict(seconds)


def _speed_plot(result: Result) -> Figure:
    from matplotlib.figure import Figure

    problems = _problems(result)
    figure = Figure(figsize=(8, 2 * len(problems)), layout="constrained")
    axes = figure.subplots(len(problems), squeeze=False)[:, 0]
    for ax, (problem, entries) in zip(axes, problems.items(), strict=True):
        speeds = [_images_per_second(entry) for entry in entries]
        bars = ax.barh([entry.contender for entry in entries], speeds)
        ax.bar_label(bars, [f"{speed / speeds[0]:.2f}x" for speed in speeds], padding=3)
        ax.set(title=problem, xlabel="images/s")
        ax.invert_yaxis()
        ax.margins(x=0.1)
    return figure
