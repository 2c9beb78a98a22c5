import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tribin.errors import InputError
from tribin.tracking.metrics_file import MetricsFile
from tribin.tracking.strict_json import NON_FINITE, dump_scalars, load_scalars

NAMES = st.text(max_size=8).filter(lambda name: name != "images_seen")
VALUES = st.floats() | st.integers() | st.text().filter(lambda text: text not in NON_FINITE)


def write_records(path: Path, images_seen: list[int]) -> MetricsFile:
    file = MetricsFile(path)
    for images in images_seen:
        file.append({"images_seen": images, "bits_per_dim": 1 / images})
    return file


def reject_constant(name: str) -> float:
    raise AssertionError(f"{name} is not JSON")


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_records_are_strict_json_and_are_read_back(
    record: dict[str, float | int | str],
) -> None:
    text = dump_scalars(record)
    assert "\n" not in text
    json.loads(text, parse_constant=reject_constant)
    read = load_scalars(text)
    assert list(read) == list(record)
    for name, value in record.items():
        assert repr(read[name]) == repr(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_floats_become_strings_that_float_reads(value: float) -> None:
    text = json.loads(dump_scalars({"loss": value}))["loss"]
    assert isinstance(text, str)
    assert str(float(text)) == str(value)


def test_records_are_read_in_the_order_of_appending(tmp_path: Path) -> None:
    file = write_records(tmp_path / "metrics.jsonl", [64, 128, 192])
    assert [record["images_seen"] for record in file.read()] == [64, 128, 192]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("torn", [b"", b'{"images_seen": 256, "bits', b"\0\0\0\0"])
def test_truncated_file_goes_on_as_if_the_run_had_not_been_cut(tmp_path: Path, torn: bytes) -> None:
    cut = write_records(tmp_path / "cut.jsonl", [64, 128, 192])
    with cut.path.open("ab") as file:
        file.write(torn)
    assert [record["images_seen"] for record in cut.read()] == [64, 128, 192]

    cut.truncate_after(128)
    write_records(cut.path, [192, 256])

    whole = write_records(tmp_path / "whole.jsonl", [64, 128, 192, 256])
    assert cut.path.read_bytes() == whole.path.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"cut.jsonl", "whole.jsonl"}


def test_truncating_a_missing_file_leaves_it_missing(tmp_path: Path) -> None:
    MetricsFile(tmp_path / "metrics.jsonl").truncate_after(0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["{not json", "[1, 2]"])
def test_a_damaged_line_is_named_and_the_file_is_kept(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "metrics.jsonl"
    text = '{"images_seen": 64}\n' + damage + '\n{"images_seen": 128}\n'
    path.write_text(text)
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2: "):
        MetricsFile(path).truncate_after(64)
    assert path.read_text() == text
