"""Two profiles of the same things: what became slower or faster, beyond what chance explains."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tribin.errors import InputError
from tribin.profiling.report.text import duration, fitted_columns, paragraph
from tribin.profiling.result import Entry, Kind, Result

CONDITIONS = ("device", "torch", "triton", "cuda")
"""Of a result's provenance, what its times depend on."""

Verdict = Literal["slower", "faster", "="]


@dataclass(frozen=True)
class Change:
    """One contender at one problem, in two results.

    Attributes:
        problem, contender: as in `Entry`.
        old, new: medians, seconds a call.
        change: the new median over the old, less 1.
        noise: of the change, by chance, in 19 of 20 cases.
        verdict: what the change is beyond the noise.
    """

    problem: str
    contender: str
    old: float
    new: float
    change: float
    noise: float
    verdict: Verdict


@dataclass(frozen=True)
class Comparison:
    """Two results of one kind.

    Attributes:
        kind: theirs.
        changes: of what is in both, in the old one's order.
        only_old, only_new: problems and contenders that the other lacks.
        ceilings: by name, the new rate over the old one, less 1.
        conditions: by name, the old and the new one where they differ: the device, with its
            threads, versions and settings. Then a change says nothing of the code alone.
    """

    kind: Kind
    changes: list[Change]
    only_old: list[tuple[str, str]]
    only_new: list[tuple[str, str]]
    ceilings: dict[str, float]
    conditions: dict[str, tuple[Any, Any]]

    @property
    def is_slower(self) -> bool:
        """Whether anything is, beyond the noise."""
        return any(change.verdict == "slower" for change in self.changes)


def compare(old: Result, new: Result) -> Comparison:
    """Compare what two results have in common.

    Raises:
        InputError: if they are of different kinds, or have nothing in common.
    """
    if old.kind != new.kind:
        raise InputError(f"OLD is a profile of kind {old.kind!r}, NEW one of kind {new.kind!r}")
    before, after = _by_name(old), _by_name(new)
    changes = [_change(before[name], after[name]) for name in before if name in after]
    if not changes:
        raise InputError("OLD and NEW have no contender at any problem in common")
    return Comparison(
        old.kind,
        changes,
        [name for name in before if name not in after],
        [name for name in after if name not in before],
        {name: new.ceilings[name] / rate - 1 for name, rate in old.ceilings.items()
         if name in new.ceilings},
        _differences(_conditions(old), _conditions(new)),
    )  # fmt: skip


def _by_name(result: Result) -> dict[tuple[str, str], Entry]:
    return {(entry.problem, entry.contender): entry for entry in result.entries}


def _change(old: Entry, new: Entry) -> Change:
    before, after = old.timing, new.timing
    # each is the noise of a difference of two measurements such as its own
    noise = math.hypot(before.noise, after.noise) / math.sqrt(2)
    difference = after.median - before.median
    verdict: Verdict = "="
    if abs(difference) > noise:
        verdict = "slower" if difference > 0 else "faster"
    return Change(
        old.problem, old.contender, before.median, after.median,
        difference / before.median, noise / before.median, verdict,
    )  # fmt: skip


def _conditions(result: Result) -> dict[str, Any]:
    return {**{name: result.provenance.get(name) for name in CONDITIONS}, **result.settings}


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Old and new values where they are not the same, None where there is none."""
    pairs = {name: (old.get(name), new.get(name)) for name in [*old, *new]}
    return {name: (before, after) for name, (before, after) in pairs.items() if before != after}


def table(comparison: Comparison) -> str:
    """The changes, and what else may explain them; at most 100 columns wide."""
    rows = [("", "old", "new", "change", "noise", ""), *map(_row, comparison.changes)]
    return "\n".join([fitted_columns(rows), "", *map(paragraph, _notes(comparison))])


def _row(change: Change) -> tuple[str, ...]:
    return (
        f"{change.problem}, {change.contender}",
        duration(change.old),
        duration(change.new),
        f"{change.change:+.1%}",
        f"± {change.noise:.1%}",
        change.verdict,
    )


def _notes(comparison: Comparison) -> Iterator[str]:
    verdicts = Counter(change.verdict for change in comparison.changes)
    yield (
        f"Beyond the noise, {verdicts['slower']} of {len(comparison.changes)} are slower and "
        f"{verdicts['faster']} faster."
    )
    for name, (old, new) in comparison.conditions.items():
        yield f"The times are not of the same {name}: {old}, now {new}."
    if comparison.ceilings:
        rates = (f"{name} {change:+.1%}" for name, change in comparison.ceilings.items())
        yield f"The machine's own ceilings: {', '.join(rates)}."
    for age, names in (("old", comparison.only_old), ("new", comparison.only_new)):
        yield from (f"Only in the {age}: {', '.join(name)}." for name in names)
