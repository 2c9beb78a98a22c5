"""``tribin study``: what it trains, and the table that it makes of it."""

import json
import math
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from tests.runs import TINY, metrics, tribin

from tribin.errors import InputError, NonFiniteError
from tribin.recipe import load_recipe
from tribin.study import load_study, rows_of, run_study, shipped_studies, to_markdown
from tribin.study.report import bits_against_bytes, to_csv


def write_study(file: Path, images: int = 16) -> Path:
    file.write_text(
        f"""
seeds: [0, 3]
overrides: [training.images={images}, evaluation.images=16, checkpoints.every_images=16]
runs:
  float: {{recipe: {TINY}, overrides: [model.precision.weights=32, model.precision.activations=32]}}
  binary: {{recipe: {TINY}, baseline: float}}
"""
    )
    return file


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A study's file and its folder, trained by two processes side by side."""
    folder = tmp_path_factory.mktemp("study")
    file = write_study(folder / "small.yaml")
    result = tribin("study", file, "--folder", folder / "out", "--device", "cpu", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    return file, folder / "out"


def test_the_runs_are_those_of_train(finished: tuple[Path, Path], tmp_path: Path) -> None:
    _, folder = finished
    names = ["binary-seed0", "binary-seed3", "float-seed0", "float-seed3"]
    assert sorted(path.name for path in (folder / "runs").iterdir()) == names
    overrides = ("training.images=16", "evaluation.images=16", "checkpoints.every_images=16")
    result = tribin("train", TINY, *overrides, "seed=3", "--run-dir", tmp_path / "run")
    assert result.exit_code == 0
    assert metrics(tmp_path / "run") == metrics(folder / "runs" / "binary-seed3")


def test_the_table_is_that_of_the_summaries(finished: tuple[Path, Path]) -> None:
    file, folder = finished
    summaries = {
        name: json.loads((folder / "runs" / name / "summary.json").read_bytes())
        for name in ("float-seed0", "float-seed3", "binary-seed0", "binary-seed3")
    }
    floats, binary = rows_of(load_study(file), folder)
    assert (floats.name, floats.seeds, floats.difference) == ("float", [0, 3], None)
    for row in (floats, binary):
        values = [summaries[f"{row.name}-seed{seed}"]["bits_per_dim"] for seed in (0, 3)]
        assert row.by_seed == values
        assert row.bits_per_dim == pytest.approx(sum(values) / 2)
        assert row.spread == pytest.approx(abs(values[0] - values[1]) / math.sqrt(2))
        assert row.packed_bytes == summaries[f"{row.name}-seed0"]["packed_bytes"]
    assert binary.difference is not None
    assert binary.difference.mean == pytest.approx(binary.bits_per_dim - floats.bits_per_dim)
    assert binary.difference.by_seed == pytest.approx(
        [b - f for b, f in zip(binary.by_seed, floats.by_seed, strict=True)]
    )


def test_differences_are_of_images(finished: tuple[Path, Path]) -> None:
    file, folder = finished
    bits = {
        (row, seed): load_file(folder / "runs" / f"{row}-seed{seed}" / "test_bits.safetensors")
        for row in ("float", "binary")
        for seed in (0, 3)
    }
    of_image = [
        statistics.mean(
            bits["binary", seed]["bits_per_dim"][i] - bits["float", seed]["bits_per_dim"][i]
            for seed in (0, 3)
        )
        for i in range(16)
    ]
    difference = rows_of(load_study(file), folder)[1].difference
    assert difference is not None
    assert difference.standard_error == pytest.approx(statistics.stdev(of_image) / 4)
    z = difference.mean / difference.standard_error
    normal = statistics.NormalDist()
    assert difference.p == pytest.approx(2 * (1 - normal.cdf(abs(z))), abs=1e-12)


def test_the_report(finished: tuple[Path, Path]) -> None:
    file, folder = finished
    study = load_study(file)
    rows = rows_of(study, folder)
    files = {path.name for path in folder.iterdir() if path.is_file()}
    assert files == {"table.md", "table.csv", "results.json", "curves.png", "bytes.png"}
    assert (folder / "table.md").read_text() == f"{to_markdown(rows)}\n"
    lines = to_csv(rows).splitlines()
    assert [line.split(",")[0] for line in lines] == ["name", "float", "binary"]
    content = json.loads((folder / "results.json").read_bytes())
    assert [row["bits_per_dim"] for row in content["rows"]] == [row.bits_per_dim for row in rows]
    assert f"| {rows[1].bits_per_dim:.4f} ± {rows[1].spread:.4f} |" in to_markdown(rows)
    assert "16 test images of digits" in to_markdown(rows)
    assert "The baseline is float: " in to_markdown(rows)


def test_the_table_says_what_was_tested_in_bfloat16(finished: tuple[Path, Path]) -> None:
    file, folder = finished
    real, binary = rows_of(load_study(file), folder)
    assert "bfloat16" not in to_markdown([real, binary])
    table = to_markdown([real, replace(binary, half=True)])
    assert f"| {binary.packed_bytes:,} (bfloat16) |" in table
    assert "Where it says (bfloat16), real weights were tested in it, too." in table


def test_the_plot_of_a_single_row(finished: tuple[Path, Path]) -> None:
    [row, _] = rows_of(load_study(finished[0]), finished[1])
    [axes] = bits_against_bytes([row]).axes
    low, high = axes.get_xlim()
    assert low < row.packed_bytes < high


def test_what_is_finished_is_not_trained_again(finished: tuple[Path, Path]) -> None:
    file, folder = finished
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*")}
    result = tribin("study", file, "--folder", folder, "--json")
    assert result.exit_code == 0
    assert result.stderr == "small: 4 of 4 runs finished\n"
    assert json.loads(result.stdout) == json.loads((folder / "results.json").read_bytes())
    assert {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*")} == before


def test_a_study_that_a_signal_stops_goes_on(tmp_path: Path) -> None:
    file = write_study(tmp_path / "small.yaml", images=400)
    command = [sys.executable, "-m", "tribin", "study", file, "--folder", tmp_path / "out"]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
    while not list((tmp_path / "out").glob("runs/*/checkpoints/latest")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 75, errors
    assert "stopped by SIGTERM; the same command goes on" in errors
    [run] = (tmp_path / "out" / "runs").iterdir()
    assert not (run / "summary.json").exists()
    study = load_study(file)
    run_study(study, tmp_path / "out", ["cpu", "cpu"])
    assert len(rows_of(study, tmp_path / "out")) == 2
    assert "resuming after" in (tmp_path / "out" / "logs" / f"{run.name}.txt").read_text()


def test_a_run_that_fails_stops_the_study(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(
        f"seeds: [0]\nruns: {{a: {{recipe: {TINY}, overrides: [optimizer.learning_rate=1e300]}}}}"
    )
    with pytest.raises(NonFiniteError, match="a-seed0 ended with exit code 3: tribin: "):
        run_study(load_study(file), tmp_path / "out")


def test_a_folder_with_another_study(finished: tuple[Path, Path], tmp_path: Path) -> None:
    file = write_study(tmp_path / "small.yaml", images=24)
    result = tribin("study", file, "--folder", finished[1])
    assert result.exit_code == 2
    assert "holds a run of another recipe than the study's; name another --folder" in result.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds: []\nruns: {a: {recipe: X}}", "seeds: [] is not a list of 1 or more"),
        ("seeds: [1, 1]\nruns: {a: {recipe: X}}", "seeds: [1, 1] names a seed twice"),
        ("seeds: [1]\nruns: {}", "runs: "),
        ("seeds: [1]", "runs: required, but missing"),
        ("seeds: [1]\nruns: {a/b: {recipe: X}}", "is not a name of letters, digits"),
        ("seeds: [1]\nruns: {a: {recipe: X, baseline: c}}", "a has the baseline 'c'; there are: a"),
        ("seeds: [1]\nruns: {a: {recipe: absent}}", "no recipe 'absent'"),
        ("seeds: [1]\nruns: {a: {recipe: X, over: []}}", "did you mean overrides?"),
        ("seeds: [1]\noverrides: [model.width=0]\nruns: {a: {recipe: X}}", "model.width: 0 is not"),
        ("- 1", "the file is not a mapping"),
    ],
)
def test_faults_of_a_study(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(text.replace("X", str(TINY)))
    with pytest.raises(InputError) as caught:
        load_study(file)
    assert message in str(caught.value)


def test_a_baseline_on_other_images(tmp_path: Path) -> None:
    file = write_study(tmp_path / "study.yaml")
    fewer = "overrides: [evaluation.images=8], baseline: float"
    file.write_text(file.read_text().replace("baseline: float", fewer))
    with pytest.raises(InputError, match="binary and its baseline float differ in evaluation"):
        load_study(file)


def test_an_unknown_study() -> None:
    with pytest.raises(
        InputError, match=r"neither a file nor a shipped study; did you mean paper_"
    ):
        load_study("paper_tabel")


def test_overrides_hold_for_all_rows(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path / "study.yaml"), ["training.images=40"])
    assert {run.recipe.training.images for run in study.runs} == {40}
    assert [run.name for run in study.runs] == [
        "float-seed0", "float-seed3", "binary-seed0", "binary-seed3",
    ]  # fmt: skip


@pytest.mark.parametrize("name", shipped_studies())
def test_shipped_studies(name: str) -> None:
    overrides = ["data.path=x"] if "imagenet32" in name else []
    study = load_study(name, overrides)
    for run in study.runs:
        entry = study.section.runs[run.row]
        settings = [*study.section.overrides, *entry.overrides, *overrides, f"seed={run.seed}"]
        assert run.recipe == load_recipe(entry.recipe, settings)


def test_a_device_that_is_none() -> None:
    result = tribin("study", "paper_table", "--device", "gpu0")
    assert result.exit_code == 2
    assert "--device: 'gpu0' is neither cpu nor the index of a GPU" in result.stderr
