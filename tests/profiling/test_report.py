"""The report of any profile: a heading that names the machine, and the folder."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from tests.profiling.results import PROVENANCE, entry, result

from tribin.errors import InputError
from tribin.profiling.report import heading, plots, table, write_report
from tribin.profiling.result import read_result

RESULT = result(
    entry("op 1x2:3", "tribin", 1e-3, operations=100, bytes=10, arithmetic="bit"),
    entry("op 1x2:3", "simulated", 2e-3, operations=100, bytes=10, arithmetic="float32"),
)


def test_heading() -> None:
    assert heading(RESULT).splitlines() == [
        "a CPU, 2 threads; torch 2.13.0, triton 3.7.1, tribin 0.1.0 (01230123012301-dirty),",
        "2026-01-02T03:04:05+00:00",
        "clocks: core 3,700 MHz",
        "ceilings: copy 50.0 GB/s, float32 200 Gop/s, bfloat16 400 Gop/s, bit 5.00 Top/s",
    ]


def test_heading_of_a_machine_that_says_little() -> None:
    provenance = {**PROVENANCE, "commit": None, "triton": None}
    unknown = replace(RESULT, provenance=provenance, clocks={}, ceilings={})
    assert heading(unknown).splitlines() == [
        "a CPU, 2 threads; torch 2.13.0, tribin 0.1.0 (commit unknown), 2026-01-02T03:04:05+00:00",
        "clocks: unknown",
        "ceilings: unknown",
    ]


def test_folder(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    for _ in range(2):  # the second time in its place
        write_report(RESULT, folder)
    assert {file.name for file in folder.iterdir()} == {
        "results.json", "table.txt", "roofline.png", "ratios.png",
    }  # fmt: skip
    assert read_result(folder) == RESULT
    text = (folder / "table.txt").read_text()
    assert text == f"{table(RESULT)}\n"
    assert text.startswith(f"{heading(RESULT)}\n\n")
    with Image.open(folder / "roofline.png") as image:
        assert image.size == (1650, 1050)


def test_without_matplotlib_there_are_no_plots(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert plots(RESULT) == {}
    write_report(RESULT, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"results.json", "table.txt"}


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--output: .*file cannot be written: "):
        write_report(RESULT, tmp_path / "file")
