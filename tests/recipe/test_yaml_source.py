import contextlib
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tribin.recipe.faults import Origin, UnreadableError
from tribin.recipe.yaml_source import MAX_DEPTH, Located, read_yaml, write_yaml

START = Origin("x.yaml", 1)


def read(text: str) -> Located:
    faults = []
    located = read_yaml(text, START, faults)
    assert not faults
    return located


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # The examples of the core schema, YAML 1.2.2 section 10.3.2.
        *[("null", None), ("~", None), ("", None), ("NULL", None)],
        *[("true", True), ("True", True), ("FALSE", False)],
        *[("0", 0), ("0o7", 7), ("0x3A", 58), ("-19", -19)],
        *[("0.", 0.0), ("-0.0", -0.0), (".5", 0.5), ("+12e03", 12e3), ("-2E+05", -2e5)],
        # What PyYAML reads as text, or as something else.
        *[("2e-5", 2e-5), ("1e3", 1e3), ("007", 7), ("50_000_000", 50_000_000)],
        *[(word, word) for word in ("no", "on", "yes", "off", "y", "N", "None", "nUll")],
        *[
            (word, word)
            for word in ("1:30", "2020-01-01", "0b1", "_1", "1_", "1__0", "1e", ".", "=")
        ],
        *[('"1"', "1"), ("'true'", "true"), ('""', ""), (".inf", ".inf"), (".NaN", ".NaN")],
    ],
)
def test_scalars_follow_the_core_schema(text, value):
    plain = read(text).plain()
    assert (plain, type(plain)) == (value, type(value))
    if value == 0.0:
        assert math.copysign(1, plain) == math.copysign(1, value)


def test_every_value_knows_its_line():
    located = read(
        """
        a:
          b: 1

          c:
            - x
            - {d: 2,
               e: 3}
        f: |
          text
        """
    )
    lines = {
        (): 2,
        ("a",): 2,
        ("a", "b"): 3,
        ("a", "c"): 5,
        ("a", "c", 0): 6,
        ("a", "c", 1, "d"): 7,
        ("a", "c", 1, "e"): 8,
        ("f",): 9,
    }
    assert {path: located.origin_of(path).line for path in lines} == lines


def test_what_is_missing_is_located_in_the_innermost_value_around_it():
    located = read("a:\n  b: [1, 2]\n")
    assert located.origin_of(("a", "z", "y")).line == 1
    assert located.origin_of(("a", "b", 7)).line == 2
    assert located.origin_of(("a", "b", "c")).line == 2


def test_duplicate_and_nameless_keys_are_all_reported():
    faults = []
    read_yaml("a: {b: 1, b: 2}\na: 3\n4: x\n~: y\n? [q]\n: z\n", START, faults)
    assert [(fault.origin.line, fault.path) for fault in faults] == [
        (1, "a.b"),
        (2, "a"),
        (3, ""),
        (4, ""),
        (5, ""),
    ]
    assert "duplicate key, first given at x.yaml:1" in str(faults[1])


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb: &anchor [1]\n", 2, "anchors and aliases"),
        ("a: 1\nb: *anchor\n", 2, "anchors and aliases"),
        ("a: 1\nb: !!str 1\n", 2, "tags"),
        ("a: 1\nb: !!python/object/apply:os.getcwd []\n", 2, "tags"),
        ("a: 1\nb: ! 1\n", 2, "tags"),
        ("a: 1\n---\nb: 1\n", 2, "single document"),
        ("a: 1\nb: [1, 2\nc: 3", 3, "expected ',' or ']'"),
        ("a: 1\n\tb: 1\n", 2, "cannot start any token"),
        ("a: " + "[" * 100_000, 1, f"more than {MAX_DEPTH} levels"),
        ("a: " + "{a: " * 1_000 + "}" * 1_000, 1, f"more than {MAX_DEPTH} levels"),
        ("\n" + "".join(f"{' ' * n}a:\n" for n in range(1_000)), MAX_DEPTH + 1, "levels"),
        ("a: \x07", 1, "special characters"),
        ('a: "\\UFFFFFFFF"', 1, "too large"),
        ("a: 1\nb: " + "1" * 1_001, 2, "more than 1,000 digits"),
        ("a: 1\nb: [0x" + "f" * 5_000 + "]", 2, "more than 1,000 digits"),
        ("a: 1\nb: 0o" + "7" * 6_000, 2, "more than 1,000 digits"),
        ('a: 1\nb: "\\uD800"', 2, "half a character"),
        ('a: 1\n"\\uDFFF": 2', 2, "half a character"),
    ],
)
def test_what_cannot_be_read_is_one_located_fault(text, line, message):
    with pytest.raises(UnreadableError, match=message) as caught:
        read_yaml(text, START, [])
    assert caught.value.fault.origin == Origin("x.yaml", line)


def test_alias_bomb_is_refused_at_its_first_anchor():
    levels = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 30)]
    with pytest.raises(UnreadableError) as caught:
        read_yaml("\n".join(["l0: &l0 [lol]", *levels]), START, [])
    assert caught.value.fault.origin.line == 1


def test_nesting_is_read_up_to_the_limit():
    depth = MAX_DEPTH - 1
    located = read("[" * depth + "1" + "]" * depth)
    assert str(located.plain()).count("(") == depth


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.from_regex(r"\A[-+0-9._eEox~]{1,8}\Z")
)
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4).map(tuple) | st.dictionaries(st.text(), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(trees)
@example("1e3")
@example("0o7")
@example("no")
@example({"\x85": "\u2028"})
def test_what_is_written_reads_back_equal(data):
    plain = read(write_yaml(data)).plain()
    assert plain == data
    assert repr(plain) == repr(data)  # == takes 1, 1.0 and True for equal


def test_a_value_written_twice_is_written_out_twice():
    shared = ("a", "b")
    assert "&" not in write_yaml({"x": shared, "y": shared})


@given(st.text(alphabet="ab01.:-,[]{}&*!|>'\"%@#?~\\xUu \n\t") | st.text())
@example("%YAML 1")
@example("? ")
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(UnreadableError):
        read_yaml(text, START, []).plain()
