"""The campaign's recipes: equal to the shipped ones, and read without what those take."""

from dataclasses import asdict

import pytest
import torch
from benchmarks.gpu.recipes import (
    FILE,
    MODEL_NAMES,
    PRECISIONS,
    TINY_MODELS,
    build_model,
    read_recipe,
    recipes_as_json,
)

from tribin.recipe import load_recipe
from tribin.training.optimizer import learning_rate

each_recipe = pytest.mark.parametrize(
    ("model", "precision"), [(m, p) for m in MODEL_NAMES for p in PRECISIONS]
)


def test_the_file_is_what_the_shipped_recipes_give() -> None:
    assert FILE.read_text(encoding="utf-8") == recipes_as_json(), (
        "python -m benchmarks.gpu.recipes writes it anew"
    )


@each_recipe
def test_the_model_is_the_recipes(model: str, precision: str) -> None:
    shipped = load_recipe(f"{model}/cifar10_{precision}")
    with torch.device("meta"):
        built = build_model(read_recipe(model, precision))
    assert asdict(built.config) == asdict(shipped.model.config())
    assert (built.image_shape, built.levels) == ((3, 32, 32), 256)


@each_recipe
def test_the_learning_rate_is_the_recipes(model: str, precision: str) -> None:
    shipped = load_recipe(f"{model}/cifar10_{precision}")
    recipe = read_recipe(model, precision)
    for images_seen in (0, 1000, 10**6):
        assert learning_rate(recipe, images_seen) == learning_rate(shipped, images_seen)


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_a_tiny_model_is_small_and_of_the_same_precision(model: str) -> None:
    recipe = read_recipe(model, "w1a1", tiny=True)
    built = build_model(recipe)
    assert sum(parameter.numel() for parameter in built.parameters()) < 1_000_000
    assert str(built.config.precision) == "W1A1"
    assert recipe.training.batch_size <= 8
    assert TINY_MODELS[model].items() <= asdict(built.config).items()
