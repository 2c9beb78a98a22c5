"""A third model needs its own file, a line of the registry and recipes: nothing else changes."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from einops import rearrange, reduce
from PIL import Image
from tests.runs import cut_before, metrics, tensor_files, tribin
from torch import Tensor, nn

from tribin.models import MODELS, GenerativeModel, Objective

NAME = "factorized_categorical"
RECIPE = {
    "model": {"name": NAME, "initial_std": 0.1},
    "data": {"name": "digits", "validation_images": 40},
    "optimizer": {"schedule": "constant", "learning_rate": 0.1},
    "training": {"images": 640, "batch_size": 16, "ema_decay": 0.8, "log_every_images": 16},
    "evaluation": {"every_images": 320, "images": 64},
    "samples": {"count": 4},
    "checkpoints": {"every_images": 320},
}


@dataclass(frozen=True)
class FactorizedCategoricalConfig:
    """Independent pixels."""

    initial_std: float = field(
        default=0.0, metadata={"ge": 0, "description": "of the logits, before training"}
    )


class FactorizedCategorical(GenerativeModel):
    """A distribution of each pixel that knows nothing of the others: exact, without latents."""

    Config = FactorizedCategoricalConfig

    def __init__(
        self, config: FactorizedCategoricalConfig, image_shape: tuple[int, int, int], levels: int
    ) -> None:
        super().__init__(image_shape, levels)
        self.config = config
        self.logits = nn.Parameter(config.initial_std * torch.randn(*image_shape, levels))

    def forward(self, images: Tensor) -> Objective:
        bits_per_dim = self.to_bits_per_dim(-self.log_weight(images).mean())
        return Objective(bits_per_dim, {"bits_per_dim": bits_per_dim.detach()})

    def log_weight(self, images: Tensor) -> Tensor:
        log_probabilities = self.logits.log_softmax(-1) * F.one_hot(images.long(), self.levels)
        return reduce(log_probabilities, "n c h w level -> n", "sum")

    def sample(self, count: int, temperature: float = 1.0) -> Tensor:
        probabilities = (self.logits / temperature).softmax(-1)
        pixels = probabilities.flatten(0, 2).multinomial(count, replacement=True)
        channels, height, width = self.image_shape
        shape = {"c": channels, "h": height, "w": width}
        return rearrange(pixels, "(c h w) n -> n c h w", **shape).to(torch.uint8)

    def reconstruct(self, images: Tensor) -> Tensor:
        return images


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line of the registry."""
    monkeypatch.setitem(MODELS, NAME, FactorizedCategorical)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    return path


def test_its_recipe_is_checked(recipe: Path) -> None:
    result = tribin("recipe", "check", recipe)
    assert (result.exit_code, result.output) == (0, f"{recipe}: ok\n")
    assert "initial_std: 0.1" in tribin("recipe", "show", recipe).output
    assert "of the logits, before training" in tribin("recipe", "schema").output
    result = tribin("info", recipe, "model.initial_std=-1")
    assert result.exit_code == 2
    assert "model.initial_std" in result.stderr


def test_its_size_is_counted(recipe: Path) -> None:
    size = json.loads(tribin("info", recipe, "--json").stdout)
    assert (size["parameters"], size["binary_parameters"]) == (8 * 8 * 17, 0)


def test_it_is_trained_measured_and_sampled(recipe: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    trained = tribin("train", recipe, "--run-dir", run_dir, "--json")
    assert trained.exit_code == 0
    summary = json.loads(trained.stdout)
    uniform = math.log2(17)
    assert summary["bits_per_dim"] < 0.75 * uniform

    evaluated = tribin("evaluate", run_dir, "--json")
    assert json.loads(evaluated.stdout)["bits_per_dim"] == summary["bits_per_dim"]
    # Nothing is random in it, so that more draws are no tighter.
    importance_weighted = tribin("evaluate", run_dir, "--importance-samples", 3, "--json")
    assert json.loads(importance_weighted.stdout)["bits_per_dim"] == pytest.approx(
        summary["bits_per_dim"], rel=1e-6
    )

    grid = tmp_path / "grid.png"
    assert tribin("sample", run_dir, "--count", 9, "-o", grid).exit_code == 0
    with Image.open(grid) as image:
        assert len(image.convert("L").getcolors() or ()) > 2  # of the lines, and of pixels
    refused = tribin("sample", run_dir, "--interpolate", 4, "-o", tmp_path / "rows.png")
    assert refused.exit_code == 2
    assert "FactorizedCategorical does not interpolate" in refused.stderr
    assert not (tmp_path / "rows.png").exists()


def test_it_resumes_bit_for_bit(recipe: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert tribin("train", recipe, "--run-dir", whole).exit_code == 0
    with cut_before(step=27):
        tribin("train", recipe, "--run-dir", cut)
    assert tribin("resume", cut).exit_code == 0
    assert tensor_files(cut, 640) == tensor_files(whole, 640)
    assert metrics(cut) == metrics(whole)
    assert (cut / "summary.json").read_bytes() == (whole / "summary.json").read_bytes()


def test_it_is_exported(recipe: Path, tmp_path: Path) -> None:
    run_dir, file = tmp_path / "run", tmp_path / "third.safetensors"
    assert tribin("train", recipe, "--run-dir", run_dir).exit_code == 0
    assert tribin("export", run_dir, "-o", file).exit_code == 0
    found, expected = (tribin("evaluate", source, "--json").stdout for source in (file, run_dir))
    assert found == expected
    described = json.loads(tribin("info", file, "--json").stdout)
    assert described["file"]["model"] == NAME
    assert described["parameters"] == 8 * 8 * 17
    assert "residual layers" not in file.with_suffix(".md").read_text()
