"""``tribin compare``: processes, files and messages."""

import json
from pathlib import Path

import pytest
import torch
from tests.runs import tribin

from tribin import save
from tribin.trained_model import load_trained_model

ENDLESS = -1e4  # a log-scale whose inverse scale is infinite in float32


@pytest.fixture(scope="module")
def packed_file(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("packed") / "model.safetensors"
    assert tribin("export", trained_run, "-o", file, "--no-evaluate").exit_code == 0
    return file


def test_two_models(trained_run: Path, packed_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    options = ("--images", 20, "--batch-size", 8)
    result = tribin("compare", packed_file, trained_run, *options, "-o", folder, "--json")
    assert (result.exit_code, result.stderr) == (
        0, f"measuring {packed_file}\nmeasuring {trained_run}\n",
    )  # fmt: skip
    assert sorted(file.suffix for file in folder.iterdir()) == [".json", ".md", ".png"]
    assert json.loads((folder / "comparison.json").read_text()) == json.loads(result.stdout)
    for model in json.loads(result.stdout)["models"]:
        expected = json.loads(tribin("evaluate", model["source"], *options, "--json").stdout)
        assert {name: model[name] for name in ("bits_per_dim", "standard_error")} == {
            name: expected[name] for name in ("bits_per_dim", "standard_error")
        }


def test_a_density_that_is_not_finite(trained_run: Path, tmp_path: Path) -> None:
    trained = load_trained_model(trained_run, torch.device("cpu"))
    trained.model.log_scale.data.fill_(ENDLESS)
    file, recipe = tmp_path / "bad.safetensors", trained.recipe.model_dump(mode="json")
    save(trained.model, file, recipe=recipe, provenance=trained.provenance)
    result = tribin("compare", file, "-o", tmp_path / "report")
    assert (result.exit_code, result.stdout) == (3, "")
    progress, message = result.stderr.splitlines()
    assert progress == f"measuring {file}"
    assert message.startswith(f"tribin: {file}: the density of 32 of 32 images is not finite")
    assert not (tmp_path / "report").exists()


def test_bad_sources(trained_run: Path, tmp_path: Path) -> None:
    result = tribin("compare", trained_run, tmp_path / "missing", "-o", tmp_path / "report")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"tribin: {tmp_path / 'missing'}")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "report").exists()


def test_at_least_one() -> None:
    result = tribin("compare")
    assert result.exit_code == 2
    assert "Missing argument 'RUN|FILE...'" in result.stderr


@pytest.mark.parametrize(
    "options", [("--images", 1), ("--batch-size", 0), ("--importance-samples", 0)]
)
def test_bad_options(trained_run: Path, options: tuple[object, ...]) -> None:
    result = tribin("compare", trained_run, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"Invalid value for '{options[0]}'" in result.stderr


def test_the_folder_cannot_be_a_file(trained_run: Path) -> None:
    result = tribin("compare", trained_run, "-o", trained_run / "recipe.yaml")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Invalid value for '-o' / '--output'" in result.stderr
