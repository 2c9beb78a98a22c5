"""The file of a result: what is read is what was written, and faults are one message."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.profiling.results import CEILINGS, entry, result

from tribin.errors import InputError
from tribin.profiling.result import FILE_NAME, Entry, Result, read_result, write_result
from tribin.profiling.timing import Timing

SECONDS = st.floats(1e-9, 1e3)
ENTRIES = st.builds(
    Entry,
    problem=st.text(),
    contender=st.text(),
    timing=st.builds(Timing, SECONDS, SECONDS, SECONDS, SECONDS, st.integers(1, 10**9)),
    operations=st.integers(0, 10**18),
    bytes=st.integers(0, 10**18),
    arithmetic=st.none() | st.sampled_from(list(CEILINGS)),
    images=st.none() | st.integers(1, 10**6),
)
RESULT = result(entry("op shape", "tribin", 1e-3, operations=10, bytes=20, arithmetic="bit"))


@given(entries=st.lists(ENTRIES), kind=st.sampled_from(["kernels", "model", "step", "scaling"]))
def test_what_is_read_is_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, entries: list[Entry], kind: str
) -> None:
    folder = tmp_path_factory.mktemp("result") / "made" / "anew"
    written = result(*entries, kind=kind, details={"numbers": [1, 2.5, None]})
    write_result(written, folder)
    assert read_result(folder) == written
    assert read_result(folder / FILE_NAME) == written


def test_a_result_of_now_says_where_it_is_from(tmp_path: Path) -> None:
    now = Result.of_now("step", torch.device("cpu"), {"rounds": 2}, CEILINGS, RESULT.entries)
    write_result(now, tmp_path)
    assert read_result(tmp_path) == now
    assert now.provenance["torch"] == torch.__version__
    assert f"{torch.get_num_threads()} threads" in str(now.provenance["device"])


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--output: .*/folder cannot be written: Not a directory"):
        write_result(RESULT, tmp_path / "file" / "folder")


def damaged(change: Callable[[dict[str, Any]], object]) -> str:
    values = json.loads(RESULT.to_json())
    change(values)
    return json.dumps(values)


FAULTS = {
    "not JSON": ("{", "is no result of tribin profile"),
    "not UTF-8": (b"\xff", "is no result of tribin profile"),
    "a list": ("[]", "is no result of tribin profile"),
    "a number": ("3", "is no result of tribin profile"),
    "other JSON": ('{"benchmark": "packed_layers"}', "is no result of tribin profile"),
    "another version": (
        damaged(lambda values: values.update(tribin_profile=2)),
        "is of version 2; this tribin reads results of version 1",
    ),
    "a field is missing": (damaged(lambda values: values.pop("clocks")), "is damaged: .*fields"),
    "a field too many": (damaged(lambda values: values.update(more=1)), "is damaged: .*more"),
    "an unknown kind": (damaged(lambda values: values.update(kind="x")), "is damaged: .*'x'"),
    "no entries": (damaged(lambda values: values.update(entries=None)), "is damaged: "),
    "an entry that is none": (
        damaged(lambda values: values.update(entries=[3])), "is damaged: ",
    ),
    "an entry without timing": (
        damaged(lambda values: values["entries"][0].pop("timing")), "is damaged: 'timing'",
    ),
    "a median that is no number": (
        damaged(lambda values: values["entries"][0]["timing"].update(median="x")),
        "is damaged: .*no numbers",
    ),
    "an entry without contender": (
        damaged(lambda values: values["entries"][0].pop("contender")), "is damaged: .*contender",
    ),
    "a timing without noise": (
        damaged(lambda values: values["entries"][0]["timing"].pop("noise")), "is damaged: .*noise",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("content", "message"), FAULTS.values(), ids=FAULTS)
def test_faults(tmp_path: Path, content: str | bytes, message: str) -> None:
    file = tmp_path / FILE_NAME
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    for path in (file, tmp_path):
        with pytest.raises(InputError, match=message) as caught:
            read_result(path)
        assert str(caught.value).startswith(f"{file} ")
        assert "\n" not in str(caught.value)


def test_nothing_is_there(tmp_path: Path) -> None:
    for path, file in ((tmp_path, FILE_NAME), (tmp_path / "x.json", "x.json")):
        with pytest.raises(InputError, match=f"{file} cannot be read: No such file"):
            read_result(path)


def test_floor() -> None:
    """The longer of what the memory and the arithmetic take."""
    found = entry("op shape", "tribin", 1.0, operations=10**12, bytes=10**9, arithmetic="bit")
    assert RESULT.floor(found) == pytest.approx(10**12 / CEILINGS["bit"])  # 0.2 s, not 0.02 s
    assert RESULT.floor(replace(found, operations=1)) == pytest.approx(10**9 / CEILINGS["copy"])
    assert RESULT.floor(replace(found, arithmetic=None)) == pytest.approx(10**9 / CEILINGS["copy"])
    assert RESULT.floor(replace(found, arithmetic="int8")) is None
    assert RESULT.floor(replace(found, operations=0, bytes=0)) is None
    assert replace(RESULT, ceilings={}).floor(found) is None
