"""``tribin export``, and what the commands make of the file."""

import json
from pathlib import Path

import pytest
from tests.runs import tribin


def export(run: Path, file: Path, *options: object) -> str:
    result = tribin("export", run, "-o", file, *options)
    assert result.exit_code == 0
    return result.stdout


def test_text(trained_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiny.safetensors"
    lines = export(trained_run, file, "--half").splitlines()
    assert lines[0] == f"file           {file}"
    assert lines[1] == f"model card     {tmp_path / 'tiny.md'}"
    assert lines[2].startswith(f"size           {file.stat().st_size:,} bytes (float32: ")
    [found, _] = tribin("evaluate", file).stdout.splitlines()
    assert lines[3] == found
    assert lines[4].startswith("of bfloat16    ")


def test_json(trained_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiny.safetensors"
    record = json.loads(export(trained_run, file, "--json", "--weights", "raw"))
    assert list(record) == [
        "file", "card", "bytes", "float_bytes", "bits_per_dim", "standard_error", "images",
        "importance_samples", "half_cost", "weights",
    ]  # fmt: skip
    assert record["file"] == str(file)
    assert record["bytes"] == file.stat().st_size
    evaluation = json.loads(tribin("evaluate", file, "--json").stdout)
    assert evaluation.items() <= record.items()
    assert evaluation == json.loads(
        tribin("evaluate", trained_run, "--json", "--weights", "raw").stdout
    )


def test_without_an_evaluation(trained_run: Path, tmp_path: Path) -> None:
    output = export(trained_run, tmp_path / "tiny.safetensors", "--no-evaluate")
    assert "bits/dim" not in output


def test_samples_of_the_file_are_those_of_the_run(trained_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiny.safetensors"
    export(trained_run, file, "--no-evaluate")
    for options in ((), ("--reconstruct",)):
        grids = []
        for source in (trained_run, file):
            grid = tmp_path / "grid.png"
            assert tribin("sample", source, "-o", grid, *options).exit_code == 0
            grids.append(grid.read_bytes())
        assert grids[0] == grids[1]


def test_images_from_another_place(trained_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiny.safetensors"
    export(trained_run, file, "--no-evaluate")
    for command in ("evaluate", "sample"):
        options = ("--reconstruct",) if command == "sample" else ()
        result = tribin(command, file, "--data", tmp_path / "nowhere", *options)
        assert result.exit_code == 2
        assert "nowhere" in result.stderr


@pytest.mark.parametrize("name", ["missing", "file"])
def test_what_is_no_run(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("no run")
    result = tribin("export", tmp_path / name, "-o", tmp_path / "x.safetensors")
    assert result.exit_code == 2
    assert "is no run folder" in result.stderr
    assert not (tmp_path / "x.safetensors").exists()


def test_a_damaged_file(trained_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiny.safetensors"
    export(trained_run, file, "--no-evaluate")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    for command in ("evaluate", "sample", "info"):
        result = tribin(command, file)
        assert result.exit_code == 2
        assert result.stderr.count("\n") == 1
        assert "the file is damaged" in result.stderr
