from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from tribin.data import DATASETS
from tribin.models import MODELS
from tribin.recipe import Recipe, recipe_schema
from tribin.recipe.schema import recipe_class

MINIMAL = {
    "model": {"name": "resnet_vae"},
    "data": {"name": "digits"},
    "training": {"images": 1},
}


def validate(path: str = "", value: Any = None) -> Recipe:
    """Validate the minimal recipe with one field set."""
    data = {section: dict(fields) for section, fields in MINIMAL.items()}
    section, _, key = path.partition(".")
    if key:
        data.setdefault(section, {})[key] = value
    elif section:
        data[section] = value
    return recipe_class("resnet_vae").model_validate(data)


def test_defaults():
    recipe = validate()
    assert recipe.model.config() == MODELS["resnet_vae"].Config()
    assert recipe.model_dump(exclude={"model"}) == {
        "seed": 0,
        "data": {
            "name": "digits",
            "path": None,
            "image_shape": None,
            "levels": None,
            "validation_images": 0,
        },
        "optimizer": {
            "learning_rate": 0.002,
            "betas": (0.9, 0.999),
            "epsilon": 1e-8,
            "schedule": "exponential",
            "decay": 0.999995,
            "final_learning_rate": 0.0005,
            "warmup_images": 0,
            "gradient_clip": 1.0,
        },
        "training": {
            "images": 1,
            "batch_size": 128,
            "accumulation": 1,
            "initialization_images": 256,
            "autocast": "none",
            "compile": False,
            "gradient_compression": "none",
            "ema_decay": None,
            "non_finite": "stop",
            "maximum_skipped_steps": 10,
            "log_every_images": 10_000,
        },
        "evaluation": {
            "every_images": None,
            "images": None,
            "batch_size": 128,
            "importance_samples": 1,
        },
        "samples": {"every_images": None, "count": 64, "temperature": 1.0},
        "checkpoints": {"every_images": None, "keep": 3},
        "export": {"half": False},
        "tracking": {"wandb": "disabled", "project": "tribin", "entity": None},
    }


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_can_be_named(name):
    assert validate("data.name", name).data.name == name


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("seed", [-1, 2**32, True, 1.0, "1", None]),
        ("data.name", ["mnist", 1, None]),
        ("data.path", [1, True]),
        ("data.image_shape", [(1, 8), (1, 8, 8, 8), (0, 8, 8), (1, 8, 8.0), 8, "188"]),
        ("data.levels", [1, 257, 2.0]),
        ("data.validation_images", [-1, None, 0.5]),
        ("optimizer.learning_rate", [0, -1e-3, "fast", "2e-5", True, None, float("inf")]),
        ("optimizer.betas", [(0.9,), (0.9, 1.0), (-0.1, 0.9), (0.9, 0.9, 0.9), 0.9]),
        ("optimizer.epsilon", [0.0]),
        ("optimizer.schedule", ["linear", None, True]),
        ("optimizer.decay", [0, 1.01]),
        ("optimizer.final_learning_rate", [-1e-9, 3e-3]),
        ("optimizer.warmup_images", [-1]),
        ("optimizer.gradient_clip", [0, float("nan")]),
        ("training.images", [0, 2e4, None]),
        ("training.batch_size", [0]),
        ("training.accumulation", [0, 3, 256]),
        ("training.initialization_images", [-1]),
        ("training.autocast", ["float16", None]),
        ("model.residual", [1, "true", "yes"]),
        ("training.ema_decay", [0, 1, 1.0]),
        ("training.non_finite", ["ignore"]),
        ("training.maximum_skipped_steps", [-1]),
        ("training.log_every_images", [0]),
        ("evaluation.every_images", [0, 1]),
        ("evaluation.images", [0, 1]),
        ("evaluation.batch_size", [0]),
        ("evaluation.importance_samples", [0]),
        ("samples.every_images", [0]),
        ("samples.count", [0]),
        ("samples.temperature", [-0.1]),
        ("checkpoints.every_images", [0]),
        ("checkpoints.keep", [0]),
        ("tracking.wandb", [False, "off"]),
        ("tracking.project", [None, 3]),
        ("tracking.entity", [3]),
        ("samples", [None, (), "on"]),
        ("sampels", [None]),
        ("samples.counts", [1]),
    ],
)
def test_each_bad_value_is_refused_where_it_stands(path, values):
    for value in values:
        with pytest.raises(ValidationError) as caught:
            validate(path, value)
        (error,) = caught.value.errors()
        location = ".".join(map(str, error["loc"]))
        assert location.startswith(path) or error["ctx"]["field"] == path.split(".")[1], value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("optimizer.learning_rate", 1),
        ("optimizer.betas", (0, 0.5)),
        ("optimizer.decay", 1.0),
        ("optimizer.gradient_clip", None),
        ("training.accumulation", 64),
        ("training.ema_decay", 0.999),
        ("data.image_shape", (3, 32, 32)),
        ("data.levels", 256),
        ("samples.temperature", 0),
    ],
)
def test_the_edges_of_the_ranges_are_accepted(path, value):
    section, key = path.split(".")
    assert getattr(getattr(validate(path, value), section), key) == value


def test_a_recipe_is_frozen():
    recipe = validate()
    with pytest.raises(ValidationError, match="frozen"):
        recipe.training.images = 2
    with pytest.raises(ValidationError, match="frozen"):
        recipe.model.width = 2


def sections(schema: type[BaseModel]):
    yield schema
    for field in schema.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from sections(field.annotation)


def test_every_field_is_described():
    for section in sections(Recipe):
        assert section.__doc__
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"


def test_json_schema_has_every_registered_model(monkeypatch):
    monkeypatch.setitem(MODELS, "twin", MODELS["resnet_vae"])
    schema = recipe_schema()
    choices = schema["properties"]["model"]["anyOf"]
    names = [
        schema["$defs"][choice["$ref"].split("/")[-1]]["properties"]["name"]["const"]
        for choice in choices
    ]
    assert names == list(MODELS)
    assert schema["required"] == ["model", "data", "training"]
    assert schema["additionalProperties"] is False
    data = schema["$defs"]["Data"]["properties"]
    assert data["name"]["enum"] == list(DATASETS)
    assert data["image_shape"]["anyOf"][0]["minItems"] == 3
