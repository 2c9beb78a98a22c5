from importlib import resources

import pytest
import torch

from tribin.inspection import model_size
from tribin.recipe import load_recipe, shipped_recipes
from tribin.training.run_folder import build_model


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_recipe_is_what_its_name_says(name):
    recipe = load_recipe(name)
    model, _, run = name.partition("/")
    data, _, variant = run.replace("_wide", "").removesuffix("_plus").rpartition("_")
    assert recipe.model.name == model
    assert recipe.data.name == data
    config = recipe.model.config()
    assert recipe.export.half == run.endswith("_plus")
    assert config.residual == (variant != "noresidual")
    assert variant in ("noresidual", str(config.precision).lower())


@pytest.mark.parametrize("name", shipped_recipes())
def test_the_header_states_the_command(name):
    text = resources.files("tribin.recipes").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    header = [line for line in text.splitlines() if line.startswith("#")]
    assert header
    assert any(f"tribin train {name}" in line for line in header)


@pytest.mark.parametrize("name", shipped_recipes())
def test_the_header_states_the_size(name):
    recipe = load_recipe(name)
    with torch.device("meta"):
        size = model_size(build_model(recipe), real_bits=16 if recipe.export.half else 32)
    text = resources.files("tribin.recipes").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    header = " ".join(line.strip("# ") for line in text.splitlines() if line.startswith("#"))
    assert (
        f"{size.parameters:,} parameters, {size.binary_parameters:,} of them binary; "
        f"{size.float_bytes:,} bytes as float32, {size.packed_bytes:,} packed."
    ) in header


@pytest.mark.parametrize("name", [name for name in shipped_recipes() if name.endswith("_plus")])
def test_a_plus_takes_no_more_bytes(name):
    with torch.device("meta"):
        ours = build_model(load_recipe(name))
        plain = build_model(load_recipe(name.removesuffix("_plus")))
    assert model_size(ours, real_bits=16).packed_bytes <= model_size(plain).packed_bytes
