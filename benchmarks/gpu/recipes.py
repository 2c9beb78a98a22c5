"""The recipes of a campaign, in a file that takes neither pydantic nor PyYAML to read.

python -m benchmarks.gpu.recipes        # writes recipes.json anew, from the shipped recipes
"""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tribin.models import MODELS, GenerativeModel
from tribin.models.config_from_json import config_from_json

FILE = Path(__file__).with_name("recipes.json")

MODEL_NAMES = ("resnet_vae", "flowpp")
PRECISIONS = ("w1a1", "w1a32", "w32a32")

TINY_MODELS = {
    "resnet_vae": {"width": 8, "latent_layers": 1, "latent_channels": 2, "extra_blocks": 1},
    "flowpp": {"width": 8, "blocks": 1, "dequantization_blocks": 1, "mixture_components": 2},
}
TINY_TRAINING = {"batch_size": 4, "initialization_images": 4, "images": 24}


def read_recipe(model: str, precision: str, *, tiny: bool = False) -> SimpleNamespace:
    """A shipped CIFAR-10 recipe by its attributes; a tiny one has few channels, blocks and images.

    Beside the sections it has `image_shape` and `levels`, and `model` is a dictionary.
    """
    values = json.loads(FILE.read_text(encoding="utf-8"))[f"{model}/{precision}"]
    if tiny:
        values["model"] |= TINY_MODELS[model]
        values["training"] |= TINY_TRAINING
    sections = {
        name: SimpleNamespace(**section) if isinstance(section, dict) else section
        for name, section in values.items()
    }
    return SimpleNamespace(**sections | {"model": values["model"]})


def build_model(recipe: SimpleNamespace) -> GenerativeModel:
    """The recipe's model, with the weights that torch's generator gives it."""
    values = dict(recipe.model)
    model_class = MODELS[values.pop("name")]
    config = config_from_json(model_class.Config, values)
    return model_class(config, tuple(recipe.image_shape), recipe.levels)


def recipes_as_json() -> str:
    """The file's text."""
    recipes = {
        f"{model}/{precision}": _resolved(f"{model}/cifar10_{precision}")
        for model in MODEL_NAMES
        for precision in PRECISIONS
    }
    return json.dumps(recipes, indent=1) + "\n"


def _resolved(name: str) -> dict[str, Any]:
    from tribin.data import image_format
    from tribin.recipe import load_recipe

    recipe = load_recipe(name)
    images = image_format(recipe.data.name, recipe.data.image_shape, recipe.data.levels)
    values = recipe.model_dump(mode="json")
    return {**values, "image_shape": list(images.shape), "levels": images.levels}


if __name__ == "__main__":
    FILE.write_text(recipes_as_json(), encoding="utf-8")
