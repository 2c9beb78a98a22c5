"""A comparison as Markdown, JSON and a plot."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tribin.comparison.measurement import Measurement, Settings
from tribin.comparison.report import plot, to_json, to_markdown, write_report
from tribin.comparison.side_by_side import Comparison

BIG = Measurement(
    source="runs/a|b",
    model="resnet_vae",
    weights="ema",
    images_seen=80_000,
    bits_per_dim=2.04461,
    standard_error=0.01512,
    parameters=774_339,
    binary_parameters=704_512,
    bytes_on_disk=3_100_000,
    evaluated_images_per_second=1234.4,
    sampled_images_per_second=7.891,
    peak_memory_bytes=312_400_000,
    idle_memory_bytes=247_000_000,
)
SMALL = replace(
    BIG, source="runs/a$_b$/packed.safetensors", bytes_on_disk=367_000, bits_per_dim=2.1
)
COMPARISON = Comparison(
    data="digits (embedded): 1,500 train, 0 validation, 297 test",
    settings=Settings(images=297, batch_size=128, importance_samples=1, seed=3),
    provenance={"device": "a CPU", "torch": "2.13.0", "tribin": "0.1.0", "date": "2026-01-02"},
    models=[BIG, SMALL],
)


def test_markdown() -> None:
    header, rule, *rows, empty, conditions = to_markdown(COMPARISON).splitlines()
    assert header == (
        "| model | weights | test bits/dim | parameters | binary | bytes on disk "
        "| images/s evaluated | images/s sampled | peak memory, MB | before the model, MB |"
    )
    assert rule.count("|") == header.count("|")
    assert rows == [
        "| runs/a\\|b | ema | 2.0446 ± 0.0151 | 774,339 | 90.98% | 3,100,000 "
        "| 1,234 | 7.89 | 312 | 247 |",
        "| runs/a$_b$/packed.safetensors | ema | 2.1000 ± 0.0151 | 774,339 | 90.98% | 367,000 "
        "| 1,234 | 7.89 | 312 | 247 |",
    ]
    assert not empty
    for condition in (
        "297 test images", COMPARISON.data, "importance samples: 1", "seed 3",
        "batches of 128", "a CPU", "torch 2.13.0", "tribin 0.1.0", "2026-01-02",
    ):  # fmt: skip
        assert condition in conditions


def test_json() -> None:
    record = json.loads(to_json(COMPARISON))
    assert list(record) == ["data", "settings", "provenance", "models"]
    assert record == asdict(COMPARISON)
    assert list(record["models"][0])[:3] == ["source", "model", "weights"]


def test_plot() -> None:
    [axes] = plot(COMPARISON).axes
    assert axes.get_xscale() == "log"
    for bars, text, model in zip(axes.containers, axes.texts, COMPARISON.models, strict=True):
        line, _, [bar] = bars.lines
        point = (model.bytes_on_disk, model.bits_per_dim)
        assert (line.get_xdata()[0], line.get_ydata()[0]) == point == text.xy
        [[(_, low), (_, high)]] = bar.get_segments()
        ends = np.array([low, high]) - model.bits_per_dim
        assert ends == pytest.approx([-model.standard_error, model.standard_error])
    assert [text.get_text() for text in axes.texts] == ["a|b", "a$_b$/packed.safetensors"]


def test_plot_of_one_model_twice() -> None:
    figure = plot(replace(COMPARISON, models=[BIG, BIG]))
    assert [text.get_text() for text in figure.axes[0].texts] == ["a|b", "a|b"]


def test_files(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    for _ in range(2):  # the second time in its place
        write_report(COMPARISON, folder)
    files = {file.name for file in folder.iterdir()}
    assert files == {"comparison.md", "comparison.json", "comparison.png"}
    assert (folder / "comparison.md").read_text().startswith(to_markdown(COMPARISON))
    assert json.loads((folder / "comparison.json").read_text()) == asdict(COMPARISON)
    with Image.open(folder / "comparison.png") as image:
        assert image.size == (1050, 750)
        assert len(np.unique(np.asarray(image.convert("L")))) > 2  # something is drawn
