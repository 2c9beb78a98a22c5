"""A run exported: the file, the card beside it, and what was measured of it."""

import json
import re
from pathlib import Path

import pytest
import torch
from tests.runs import tiny_recipe

from tribin.data import ImageSplits
from tribin.errors import InputError
from tribin.export import export
from tribin.inspection import model_size
from tribin.recipe import load_recipe
from tribin.trained_model import load_trained_model
from tribin.training.run_folder import load_data
from tribin.training.trainer import train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(trained_run: Path) -> ImageSplits:
    return load_data(load_trained_model(trained_run, CPU).recipe)


def test_the_file_is_as_good_as_the_run(
    trained_run: Path, data: ImageSplits, tmp_path: Path
) -> None:
    result = export(trained_run, tmp_path / "tiny.safetensors", data=data)
    run = load_trained_model(trained_run, CPU)
    assert result.evaluation == run.evaluate(data.test)
    assert result.half_cost is None
    assert result.packed.weights == "ema"
    assert result.packed.recipe == run.recipe
    assert result.float_bytes == model_size(run.model).float_bytes
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.md", "tiny.safetensors"]


def test_the_weights_asked_for(trained_run: Path, data: ImageSplits, tmp_path: Path) -> None:
    result = export(trained_run, tmp_path / "raw.safetensors", weights="raw", data=data)
    assert result.evaluation == load_trained_model(trained_run, CPU, "raw").evaluate(data.test)
    assert load_trained_model(result.file, CPU).weights == "raw"


def test_the_same_run_gives_the_same_file(trained_run: Path, tmp_path: Path) -> None:
    first, second = (export(trained_run, tmp_path / name).file for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


def test_what_bfloat16_costs_is_measured(
    trained_run: Path, data: ImageSplits, tmp_path: Path
) -> None:
    exact = export(trained_run, tmp_path / "exact.safetensors", data=data)
    half = export(trained_run, tmp_path / "half.safetensors", half=True, data=data)
    assert exact.evaluation is not None
    assert half.evaluation is not None
    cost = half.evaluation.bits_per_dim - exact.evaluation.bits_per_dim
    assert half.half_cost == cost != 0
    assert half.packed.bytes_on_disk < exact.packed.bytes_on_disk
    assert f"| of that, by bfloat16 | {cost:+.4f} |" in half.card.read_text()


def test_the_card_says_what_was_measured(
    trained_run: Path, data: ImageSplits, tmp_path: Path
) -> None:
    result = export(trained_run, tmp_path / "tiny.safetensors", data=data)
    card, found = result.card.read_text(), result.evaluation
    assert found is not None
    assert (
        f"| test bits/dim | {found.bits_per_dim:.4f} ± {found.standard_error:.4f} "
        f"(ELBO, {found.images} images, ema weights) |" in card
    )
    size = result.file.stat().st_size
    assert f"| file | {size:,} bytes |" in card
    assert f"| smaller by | {1 - size / result.float_bytes:.2%} |" in card
    assert f"| data | {data.source} |" in card
    assert "trained by tribin on 1,600 images of `digits`" in card
    precision = result.packed.model.config.precision
    assert f"| weights and activations of residual layers | {precision} |" in card
    assert f"- torch: {torch.__version__}" in card


def test_the_cards_code_and_recipe_work(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = export(trained_run, tmp_path / "tiny.safetensors")
    card = result.card.read_text()
    assert "| test bits/dim | not measured |" in card
    assert "| data |" not in card
    [code], [recipe] = (
        re.findall(rf"```{language}\n(.*?)```", card, re.DOTALL) for language in ("python", "yaml")
    )
    monkeypatch.chdir(tmp_path)
    found: dict[str, torch.Tensor] = {}
    exec(code, found)
    assert found["images"].shape == (16, 1, 8, 8)
    (tmp_path / "recipe.yaml").write_text(recipe)
    assert load_recipe(tmp_path / "recipe.yaml") == result.packed.recipe


def test_the_file_is_in_the_runs_folder_by_default(trained_run: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    for path in trained_run.rglob("*"):
        if path.is_file():
            copy = run_dir / path.relative_to(trained_run)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    result = export(run_dir)
    assert result.file == run_dir / "packed.safetensors"
    assert result.card == run_dir / "packed.md"
    provenance = json.loads((run_dir / "provenance.json").read_text())
    assert provenance.items() < load_trained_model(result.file, CPU).provenance.items()


def test_what_is_exported_is_a_run(trained_run: Path, tmp_path: Path) -> None:
    file = export(trained_run, tmp_path / "tiny.safetensors").file
    with pytest.raises(InputError, match=r"tiny\.safetensors is no run folder"):
        export(file, tmp_path / "again.safetensors")
    with pytest.raises(InputError, match="missing is no run folder"):
        export(tmp_path / "missing", tmp_path / "again.safetensors")
    assert not (tmp_path / "again.safetensors").exists()


def test_a_file_that_cannot_be_written(trained_run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing/x cannot be written: No such file or directory"):
        export(trained_run, tmp_path / "missing" / "x")


def test_a_recipe_that_ships_bfloat16(tmp_path: Path) -> None:
    """The summary, the commands and the file agree."""
    recipe = tiny_recipe("export.half=true", "training.images=64")
    summary = train(recipe, tmp_path / "run")
    data = load_data(recipe)
    run = load_trained_model(tmp_path / "run", CPU)
    result = export(tmp_path / "run", data=data)
    assert summary["half"]
    assert summary["bits_per_dim"] == run.evaluate(data.test).bits_per_dim
    assert result.evaluation == run.evaluate(data.test)
    assert result.half_cost != 0
    trained = load_trained_model(tmp_path / "run", CPU, as_trained=True).model
    assert summary["packed_bytes"] == model_size(trained, real_bits=16).packed_bytes
    assert summary["packed_bytes"] < model_size(trained).packed_bytes

    exact = export(tmp_path / "run", tmp_path / "exact.safetensors", half=False, data=data)
    assert exact.half_cost is None
    assert exact.file.stat().st_size > result.file.stat().st_size
