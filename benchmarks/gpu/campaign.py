"""Stages done one after the other within a budget of time, each of them once.

A stage writes into a folder of its own, and a mark there tells that it is done: a campaign that was
cut goes on with the stages that have none.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tribin.atomic_file import write_atomically

MARK = "done.json"

OVERRUN = 4
"""How many times as long as expected a stage may take before it counts as hanging."""


@dataclass(frozen=True)
class Stage:
    """One part of a campaign.

    Attributes:
        name: also its folder's; what is before a dot is a group's.
        seconds: roughly how long it takes on the machine that the campaign is for.
        run: given its folder and the seconds that it may take; raises where something is wrong.
        takes_the_rest: `seconds` is the least that it needs, and it can use all that is left.
    """

    name: str
    seconds: float
    run: Callable[[Path, float], None]
    takes_the_rest: bool = False

    def is_of(self, names: Sequence[str]) -> bool:
        """Whether one of the names is this stage's or that of a group around it."""
        return any(f"{self.name}.".startswith(f"{name}.") for name in names)


@dataclass(frozen=True)
class Outcome:
    """What became of a stage; it is left if there was no time for it.

    Attributes:
        stage: its name.
        state: what became of it.
        seconds: that it took.
        remark: what was wrong, or why it is left, in one line.
    """

    stage: str
    state: Literal["done", "done before", "failed", "left"]
    seconds: float = 0.0
    remark: str = ""

    def __str__(self) -> str:
        line = f"{self.state:<12}{self.seconds:>6.0f} s  {self.stage}"
        return f"{line}: {self.remark}" if self.remark else line


class OutOfTimeError(Exception):
    """A stage was cut off at its limit."""


class StageError(Exception):
    """A stage failed; the message is one line."""


Execute = Callable[[Stage, Path, float, float], None]
"""Does a stage, given its folder, the seconds that it may take, and the limit to cut it off at.

Raises a `StageError` or an `OutOfTimeError` if it does not end well.
"""


def run_stages(
    stages: Sequence[Stage],
    output: Path,
    *,
    minutes: float,
    execute: Execute,
    report: Callable[[str], None],
) -> list[Outcome]:
    """Do the stages that are not done yet and are expected to fit; report each as it ends."""
    end = time.monotonic() + 60 * minutes
    outcomes = []
    for position, stage in enumerate(stages):
        folder, left = output / stage.name, end - time.monotonic()
        if (folder / MARK).exists():
            outcome = Outcome(stage.name, "done before")
        elif stage.seconds > left:
            outcome = Outcome(stage.name, "left", remark=f"it takes about {stage.seconds:.0f} s")
        else:
            report(f"\n{stage.name}, with {left:.0f} s left")
            sharing = sum(other.takes_the_rest for other in stages[position:])
            share = left / sharing if stage.takes_the_rest else 0
            outcome = _attempt(stage, folder, max(stage.seconds, share), left, execute)
        report(str(outcome))
        outcomes.append(outcome)
    return outcomes


def _attempt(stage: Stage, folder: Path, seconds: float, left: float, execute: Execute) -> Outcome:
    """Do a stage that is expected to take so many seconds, of those that are left."""
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    state: Literal["done", "failed", "left"] = "failed"
    remark = ""
    try:
        execute(stage, folder, seconds, min(OVERRUN * seconds, left))
    except StageError as error:
        remark = str(error)
    except OutOfTimeError:
        state = "left" if left < OVERRUN * seconds else "failed"
        remark = "cut at the end of the budget" if state == "left" else "killed, it took too long"
    else:
        state = "done"
    taken = time.monotonic() - start
    if state == "done":
        write_atomically(folder / MARK, json.dumps({"seconds": round(taken, 1)}).encode())
    return Outcome(stage.name, state, taken, remark)


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """0: all are done; 1: one failed; 75: some are left."""
    states = {outcome.state for outcome in outcomes}
    return 1 if "failed" in states else 75 if "left" in states else 0
