"""Columns that fit, and numbers with their units."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tribin.profiling.report.text import (
    WIDTH,
    amount,
    broken,
    columns,
    duration,
    durations,
    fitted_columns,
    paragraph,
    rate,
)

WORDS = st.text(st.characters(codec="ascii", exclude_characters="\n\r\t\x0b\x0c"), max_size=250)
LONG = st.text("abc0123x:=, ", max_size=300)
SHORT = st.text("0123456789.", min_size=1, max_size=20)


def test_columns() -> None:
    rows = [("a", "bb", "c"), ("long", "d", "")]
    assert columns(rows) == "a     bb  c\nlong   d"
    assert columns(rows, left=2) == "a     bb  c\nlong  d"


@given(st.integers(0, 12).flatmap(
    lambda count: st.lists(st.tuples(LONG, *[SHORT] * count), min_size=1, max_size=5)
))  # fmt: skip
def test_fitted_columns_keep_every_cell_and_the_width(rows: list[tuple[str, ...]]) -> None:
    text = fitted_columns(rows)
    assert max(map(len, text.splitlines()), default=0) <= WIDTH
    squeezed = "".join(text.split())
    for first, *others in rows:
        assert all(cell in text for cell in others)
        word = next(iter(first.split()), "")  # others may go on between those of another row
        assert word[:16] in squeezed


def test_what_fits_stays_as_it_is() -> None:
    rows = [("x" * 90, "123"), ("y", "4")]
    assert fitted_columns(rows) == columns(rows)


def test_a_long_first_cell_goes_on_below() -> None:
    rows = [("op", "1" * 60), ("16x256x16x16:256x3,signs,residual,gate,elu", "2" * 60)]
    assert fitted_columns(rows).splitlines() == [
        f"op{' ' * 34}{'1' * 60}",
        f"16x256x16x16:256x3,signs,residual,  {'2' * 60}",
        "gate,elu",
    ]


def test_columns_without_room_follow_in_another_table() -> None:
    first, second = fitted_columns([("a", "1" * 50, "2" * 50), ("b", "3", "4")]).split("\n\n")
    assert [line.split() for line in first.splitlines()] == [["a", "1" * 50], ["b", "3"]]
    assert [line.split() for line in second.splitlines()] == [["a", "2" * 50], ["b", "4"]]


@given(WORDS, st.integers(1, 100))
def test_broken_lines_are_the_text(text: str, width: int) -> None:
    lines = broken(text, width)
    assert all(len(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_lines_are_broken_after_spaces_and_commas() -> None:
    assert broken("one two,three four", 8) == ["one two,", "three", "four"]
    assert broken("one two, three four", 10, after=", ") == ["one two,", "three four"]
    assert paragraph("a " * 60).splitlines() == ["a " * 49 + "a", "a " * 9 + "a"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1.234, "1.23 s"), (59.96, "60.0 s"), (0.9994, "999 ms"), (0.001, "1.00 ms"),
        (0.0123, "12.3 ms"), (45e-6, "45.0 µs"), (1e-9, "0.00 µs"), (2345.0, "2,345 s"),
    ],
)  # fmt: skip
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_durations_share_the_unit_of_the_longer() -> None:
    assert durations(3.94e-3, 4.014e-3) == "3.94–4.01 ms"
    assert durations(990e-6, 1.02e-3) == "0.99–1.02 ms"


@pytest.mark.parametrize(
    ("value", "text"),
    [(4.93e12, "4.93 Tx/s"), (50.1e9, "50.1 Gx/s"), (230e9, "230 Gx/s"), (999.0, "999 x/s"),
     (0.5, "0.50 x/s"), (4.4e15, "4.40 Px/s")],
)  # fmt: skip
def test_amount(value: float, text: str) -> None:
    assert amount(value, "x/s") == text


def test_rate() -> None:
    assert rate("copy", 50.1e9) == "50.1 GB/s"
    assert rate("bit", 4.93e12) == "4.93 Top/s"
