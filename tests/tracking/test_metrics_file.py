import json
import math
import os
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tribin.errors import InputError
from tribin.tracking.metrics_file import BLOCK_BYTES, MetricsFile
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


@pytest.mark.parametrize("torn", [b"", b'{"images_seen": 256, "bits', b"\0" * 10_000])
def test_truncated_file_goes_on_as_if_the_run_had_not_been_cut(tmp_path: Path, torn: bytes) -> None:
    cut = write_records(tmp_path / "cut.jsonl", [64, 128, 192])
    with cut.path.open("ab") as file:
        file.write(torn)
    assert [record["images_seen"] for record in cut.read()] == [64, 128, 192]

    reports: list[str] = []
    cut.truncate_after(128, reports.append)
    assert reports == ["cut.jsonl: dropped a torn last line"] * bool(torn)
    write_records(cut.path, [192, 256])

    whole = write_records(tmp_path / "whole.jsonl", [64, 128, 192, 256])
    assert cut.path.read_bytes() == whole.path.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"cut.jsonl", "whole.jsonl"}


def test_truncating_a_missing_file_leaves_it_missing(tmp_path: Path) -> None:
    MetricsFile(tmp_path / "metrics.jsonl").truncate_after(0, pytest.fail)
    assert list(tmp_path.iterdir()) == []


@given(
    steps=st.lists(st.integers(0, 3), max_size=30),
    lengths=st.lists(st.sampled_from([0, 1, 50, 4000, 9000]), min_size=30, max_size=30),
    images_seen=st.integers(0, 50),
    torn=st.binary(max_size=9).filter(lambda torn: b"\n" not in torn),
)
def test_the_cut_is_where_reading_every_line_puts_it(
    steps: list[int], lengths: list[int], images_seen: int, torn: bytes
) -> None:
    """Several lines of the same images, long lines, none kept, all kept."""
    lines = [
        dump_scalars({"images_seen": images, "note": "n" * length}).encode() + b"\n"
        for images, length in zip(accumulate(steps), lengths, strict=False)
    ]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        path.write_bytes(b"".join(lines) + torn)
        reports: list[str] = []
        MetricsFile(path).truncate_after(images_seen, reports.append)
        assert len(reports) == bool(torn)
        kept = [line for line in lines if json.loads(line)["images_seen"] <= images_seen]
        assert path.read_bytes() == b"".join(kept)


LINE = (
    '{"images_seen": %d, "bits_per_dim": 2.04461234, "loss": 130.8551234, "learning_rate": 0.001}\n'
)


def write_lines(path: Path, count: int) -> None:
    with path.open("w") as file:
        file.writelines(LINE % images for images in range(count))


def bytes_read_to_cut(path: Path, images_seen: int) -> int:
    read, pread = 0, os.pread

    def counted(*arguments: int) -> bytes:
        nonlocal read
        block = pread(*arguments)
        read += len(block)
        return block

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pread", counted)
        MetricsFile(path).truncate_after(images_seen, pytest.fail)
    return read


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_what_is_read_does_not_grow_with_the_file(tmp_path: Path, share: float) -> None:
    """100 times the lines are at most 7 more halvings: each reads a line, and looks for it."""
    read = []
    for count in (1_000, 100_000):
        path = tmp_path / f"{count}.jsonl"
        write_lines(path, count)
        read.append(bytes_read_to_cut(path, int(share * count)))
    assert read[1] - read[0] <= 7 * 2 * BLOCK_BYTES
    assert read[1] < 300_000


@pytest.mark.slow
def test_ten_million_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_lines(path, 10**7)
    assert bytes_read_to_cut(path, 5_000_000) < 300_000
    records = MetricsFile(path).read()
    assert all(record["images_seen"] == images for images, record in enumerate(records))
    assert path.stat().st_size == sum(len(LINE % images) for images in range(5_000_001))


@pytest.mark.parametrize("damage", ["{not json", "[1, 2]", '{"loss": 1}', '{"images_seen": null}'])
def test_a_damaged_line_is_named_and_the_file_is_kept(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "metrics.jsonl"
    text = '{"images_seen": 64}\n' + damage + '\n{"images_seen": 128}\n'
    path.write_text(text)
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2: "):
        MetricsFile(path).truncate_after(64, pytest.fail)
    assert path.read_text() == text
