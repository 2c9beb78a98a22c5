"""What is wrong with a recipe: where, in which field, and what would be right."""

import difflib
import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tribin.errors import InputError


class Origin(NamedTuple):
    """Where something was written: a file and its line, or an override, which has no lines."""

    source: str
    line: int = 0

    def after(self, lines: int) -> "Origin":
        """Return the origin that many lines further down."""
        return Origin(self.source, self.line + lines) if self.line else self

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


OVERRIDE = Origin("override")


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong; ``path`` is the dotted key, empty for the text as a whole."""

    origin: Origin
    path: str
    message: str

    def __str__(self) -> str:
        path = f"{self.path}: " if self.path else ""
        return f"{self.origin}  {path}{self.message}"


class UnreadableError(Exception):
    """A fault that leaves nothing to go on with."""

    def __init__(self, origin: Origin, path: str, message: str) -> None:
        super().__init__(message)
        self.fault = Fault(origin, path, message)


class RecipeError(InputError):
    """All the faults of a recipe, one a line, in the order of the file."""

    def __init__(self, source: str, faults: Sequence[Fault]) -> None:
        self.faults = sorted(faults, key=lambda fault: fault.origin)
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        super().__init__("\n  ".join([f"{source} has {count}:", *map(str, self.faults)]))


def did_you_mean(word: object, choices: Iterable[str]) -> str | None:
    """Return ``did you mean X?`` for the closest of ``choices``, None if none is close."""
    closest = difflib.get_close_matches(str(word), list(choices), n=1)
    return f"did you mean {closest[0]}?" if closest else None


def spell(value: Any) -> str:
    """Spell a plain value as a recipe would: ``null``, ``true``, ``'fast'``, ``[1, 2]``."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case dict():
            return "a mapping"
        case list() | tuple():
            return f"[{', '.join(map(spell, value))}]"
        case _:
            return reprlib.repr(value)
