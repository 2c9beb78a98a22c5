"""Aligned columns, and numbers with their units."""

import re
from collections.abc import Iterator, Sequence

PREFIXES = {1e15: "P", 1e12: "T", 1e9: "G", 1e6: "M", 1e3: "k", 1: ""}

WIDTH = 100
"""Columns of a terminal that a table may fill."""

NARROWEST = 16
"""What is left of the first column at least."""


def columns(rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Rows as aligned lines, two spaces between the columns.

    Args:
        rows: cells; the first row may be a header.
        left: how many of the first columns are aligned to the left; the others are to the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(_line(row, widths, left) for row in rows)


def _line(row: Sequence[str], widths: Sequence[int], left: int) -> str:
    cells = [
        cell.ljust(width) if index < left else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


def fitted_columns(rows: Sequence[Sequence[str]]) -> str:
    """As `columns`, but never wider than `WIDTH`.

    What is long in the first column goes on in lines below; columns for which there is no room
    follow in a table of their own, beside the first column again.
    """
    firsts, *others = zip(*rows, strict=True)
    tables = [_fitted([firsts, *some]) for some in _chunks(others)]
    return "\n\n".join(tables)


def _chunks(others: Sequence[Sequence[str]]) -> Iterator[list[Sequence[str]]]:
    """As many columns at a time as have room beside the narrowest first one."""
    chunk: list[Sequence[str]] = []
    for column in others:
        if chunk and NARROWEST + _room([*chunk, column]) > WIDTH:
            yield chunk
            chunk = []
        chunk.append(column)
    yield chunk


def _room(others: Sequence[Sequence[str]]) -> int:
    """What columns need with the spaces before them."""
    return sum(2 + max(map(len, column)) for column in others)


def _fitted(table: Sequence[Sequence[str]]) -> str:
    firsts, *others = table
    rows: list[Sequence[str]] = []
    for first, *cells in zip(firsts, *others, strict=True):
        line, *more = broken(first, max(NARROWEST, WIDTH - _room(others)))
        rows += [(line, *cells), *((line, *[""] * len(cells)) for line in more)]
    return columns(rows)


def broken(text: str, width: int, after: str = "[ ,]") -> list[str]:
    """Lines of at most so many characters, broken after what a pattern matches where it does."""
    lines, line = [], ""
    for piece in re.split(f"(?<={after})", text):
        if line and len(line) + len(piece.rstrip()) > width:
            lines.append(line.rstrip())
            line = ""
        line += piece
        while len(line.rstrip()) > width:
            lines.append(line[:width])
            line = line[width:]
    return [*lines, line.rstrip()]


def paragraph(text: str, after: str = "[ ,]") -> str:
    """The text in lines of at most `WIDTH` characters; see `broken`."""
    return "\n".join(broken(text, WIDTH, after))


def duration(seconds: float) -> str:
    """Such as ``"3.94 ms"``, three digits."""
    size, name = _unit(seconds)
    return f"{_digits(seconds / size)} {name}"


def durations(shorter: float, longer: float) -> str:
    """From one to the other, such as ``"3.94–4.01 ms"``."""
    size, name = _unit(longer)
    return f"{_digits(shorter / size)}–{_digits(longer / size)} {name}"


def _unit(seconds: float) -> tuple[float, str]:
    for size, name in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= size:
            return size, name
    return 1e-6, "µs"


def amount(value: float, unit: str) -> str:
    """Such as ``"1.23 Top/s"``, three digits and a decimal prefix."""
    for size, prefix in PREFIXES.items():
        if value >= size:
            return f"{_digits(value / size)} {prefix}{unit}"
    return f"{_digits(value)} {unit}"


def rate(ceiling: str, value: float) -> str:
    """A ceiling of `Result.ceilings` with its unit."""
    return amount(value, "B/s" if ceiling == "copy" else "op/s")


def _digits(value: float) -> str:
    """Three of them, without an exponent."""
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"
