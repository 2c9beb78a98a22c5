"""The report of a training step's profile: its phases, and what it keeps for the backward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from tribin.profiling.report.text import amount, columns, duration
from tribin.profiling.result import Entry, Result
from tribin.profiling.step.profile import STEP

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ARMS_BESIDE = 3
"""How many arms fit beside each other."""

LARGEST = 10
"""Layers that the table names."""

NAME_START, NAME_END = 18, 25
"""Characters of a long layer's name that the table shows."""

Row = list[str]
Saved = Mapping[str, Mapping[str, int]]
"""Bytes by arm, and by kind of layer or by layer."""


def table(result: Result) -> str:
    """Each arm's step and its phases, then kinds of layers and the largest layers by saved bytes.

    Predicted is what the cost model and the ceilings say of the forward and the backward pass.
    Shares are those of a step that logs.
    """
    arms = list(result.details["saved"])
    blocks = [arms[i : i + ARMS_BESIDE] for i in range(0, len(arms), ARMS_BESIDE)]
    kinds, layers = _saved_by(result, "kind"), _saved_by(result, "name")
    return "\n\n".join([
        *(columns(list(_step_rows(result, block))) for block in blocks),
        *(columns(_saved_rows("saved for backward, by kind", kinds, block)) for block in blocks),
        *(columns(_saved_rows("largest layers", layers, block, LARGEST)) for block in blocks),
    ])  # fmt: skip


def _step_rows(result: Result, arms: Sequence[str]) -> Iterator[Row]:
    steps, phases = _steps(result), _phases(result)
    clocked = [steps[arm].timing for arm in arms]
    saved, predicted, peak_memory = (
        [result.details[key].get(arm) for arm in arms]
        for key in ("saved", "predicted", "peak_memory")
    )
    yield [f"training step, batch {result.settings['batch_size']}", *arms]
    yield ["median", *(duration(timing.median) for timing in clocked)]
    yield ["noise", *(f"± {timing.noise / timing.median:.1%}" for timing in clocked)]
    yield ["images/s", *(f"{_images_per_second(steps[arm]):,.1f}" for arm in arms)]
    for phase in phases[arms[0]]:
        yield [f"  {phase}", *(_share(phases[arm], phase) for arm in arms)]
    yield ["operations", *(_rate(steps[arm]) for arm in arms)]
    if None not in predicted:
        yield ["predicted", *map(duration, predicted)]
    yield ["saved for backward", *(_bytes(sum(x["bytes"] for x in layers)) for layers in saved)]
    if None not in peak_memory:
        yield ["peak memory", *map(_bytes, peak_memory)]


def _steps(result: Result) -> dict[str, Entry]:
    return {entry.contender: entry for entry in result.entries if entry.problem == STEP}


def _phases(result: Result) -> dict[str, dict[str, float]]:
    """The median seconds of each phase, by arm."""
    phases: dict[str, dict[str, float]] = {}
    for entry in result.entries:
        if entry.problem != STEP:
            phases.setdefault(entry.contender, {})[entry.problem] = entry.timing.median
    return phases


def _images_per_second(step: Entry) -> float:
    assert step.images is not None
    return step.images / step.timing.median


def _rate(step: Entry) -> str:
    return amount(step.operations / step.timing.median, "op/s") if step.operations else "unknown"


def _bytes(count: int) -> str:
    return amount(count, "B") if count else "-"


def _share(amounts: Mapping[str, float], name: str) -> str:
    return f"{duration(amounts[name])} {amounts[name] / sum(amounts.values()):>4.0%}"


def _saved_by(result: Result, key: str) -> Saved:
    counts: dict[str, Counter[str]] = {}
    for arm, layers in result.details["saved"].items():
        counts[arm] = Counter()
        for layer in layers:
            counts[arm][layer[key]] += layer["bytes"]
    return counts


def _saved_rows(
    title: str, saved: Saved, arms: Sequence[str], most: int | None = None
) -> list[Row]:
    rows = [[title, *arms]]
    for name in _largest_first(saved)[:most]:
        cells = [_bytes(saved[arm].get(name, 0)) for arm in arms]
        rows.append([_shortened(name or "(model)"), *cells])
    return rows


def _largest_first(saved: Saved) -> list[str]:
    """The names, by the most that any arm has of them."""
    most: Counter[str] = Counter()
    for amounts in saved.values():
        most |= Counter(amounts)  # the greater of both
    return [name for name, _ in most.most_common()]


def _shortened(name: str) -> str:
    if len(name) <= NAME_START + 1 + NAME_END:
        return name
    return f"{name[:NAME_START]}…{name[-NAME_END:]}"


def plots(result: Result) -> dict[str, Figure]:
    """``phases``: where a step's time goes; ``saved``: what it keeps, by kind of layer."""
    milliseconds = {
        arm: {phase: 1000 * seconds for phase, seconds in phases.items()}
        for arm, phases in _phases(result).items()
    }
    saved = _saved_by(result, "kind")
    megabytes = {
        arm: {kind: kinds.get(kind, 0) / 1e6 for kind in _largest_first(saved)}
        for arm, kinds in saved.items()
    }
    batch = f"batch {result.settings['batch_size']}"
    return {
        "phases": _stacked(milliseconds, "ms", f"training step, {batch}"),
        "saved": _stacked(megabytes, "MB", f"saved for backward, {batch}"),
    }


def _stacked(bars: Mapping[str, Mapping[str, float]], unit: str, title: str) -> Figure:
    """A bar an arm, with the same parts in each."""
    from matplotlib.figure import Figure  # takes its time, and only plots need it

    figure = Figure(figsize=(9, 1.5 + 0.6 * len(bars)), layout="constrained")
    axes = figure.add_subplot(xlabel=unit, title=title)
    left = [0.0] * len(bars)
    for part in next(iter(bars.values())):
        widths = [parts[part] for parts in bars.values()]
        axes.barh(list(bars), widths, left=left, label=part)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    figure.legend(loc="outside right center", fontsize="small")
    return figure
