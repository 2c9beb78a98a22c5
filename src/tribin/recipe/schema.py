"""The sections of a recipe: every key, its type, range, default and meaning."""

import math
import operator
from functools import cache, reduce
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, create_model, field_validator
from pydantic_core import PydanticCustomError

from tribin.data import DATASETS
from tribin.models import MODELS
from tribin.recipe.model_section import ModelSection, model_section
from tribin.recipe.section import Section, registered

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
MOST_AT_ONCE = 65_536
"""More images at once are a slip of the pen."""

Momentum = Annotated[float, Field(ge=0, lt=1)]


class Data(Section):
    """The images."""

    name: Annotated[str, registered("data set", DATASETS)] = Field(
        description="which data set to read", json_schema_extra={"enum": list(DATASETS)}
    )
    path: str | None = Field(default=None, description="folder or file to read it from")
    image_shape: tuple[Positive, Positive, Positive] | None = Field(
        default=None, description="[channels, height, width], where the data set does not fix it"
    )
    levels: int | None = Field(
        default=None,
        ge=2,
        le=256,
        description="values per channel, where the data set leaves it open",
    )
    validation_images: Count = Field(
        default=0, description="how many of the training images to hold out for validation"
    )


class Optimizer(Section):
    """Adam and the learning rate over time."""

    learning_rate: float = Field(
        default=2e-3, gt=0, description="after the warm-up, before any decay"
    )
    betas: tuple[Momentum, Momentum] = Field(
        default=(0.9, 0.999), description="Adam's two averages"
    )
    epsilon: float = Field(default=1e-8, gt=0, description="Adam's term against division by zero")
    schedule: Literal["constant", "exponential", "cosine"] = Field(
        default="exponential", description="how the learning rate falls"
    )
    decay: float = Field(
        default=0.999995, gt=0, le=1, description="factor per step (exponential only)"
    )
    final_learning_rate: float = Field(
        default=5e-4,
        ge=0,
        validate_default=True,
        description="floor of the exponential, end of the cosine",
    )
    warmup_images: Count = Field(
        default=0, description="images over which the learning rate rises from 0"
    )
    gradient_clip: float | None = Field(
        default=1.0, gt=0, description="largest norm of the gradient; null: no clipping"
    )

    @field_validator("final_learning_rate")
    @classmethod
    def _not_above_the_first(cls, final: float, info: ValidationInfo) -> float:
        first = info.data.get("learning_rate", math.inf)
        if info.data.get("schedule") != "constant" and final > first:
            raise ValueError(f"{final:g} is above optimizer.learning_rate ({first:g})")
        return final


class Training(Section):
    """How long and how to train."""

    images: Positive = Field(description="how many training images to see in all")
    batch_size: Positive = Field(
        default=128, le=MOST_AT_ONCE, description="images per optimizer step"
    )
    accumulation: Positive = Field(default=1, description="micro-batches per optimizer step")
    initialization_images: Count = Field(
        default=256, description="images for the data-dependent initialization; 0: none"
    )
    autocast: Literal["none", "bfloat16"] = Field(
        default="none", description="lower precision of layers"
    )
    compile: bool = Field(
        default=False, description="torch.compile for the steps; where it fails, a warning"
    )
    gradient_compression: Literal["none", "float16", "bfloat16"] = Field(
        default="none", description="of the gradients that processes exchange"
    )
    ema_decay: float | None = Field(
        default=None, gt=0, lt=1, description="per step, of the averaged weights; null: no average"
    )
    non_finite: Literal["stop", "skip"] = Field(
        default="stop", description="what to do with a step whose loss or gradient is not finite"
    )
    maximum_skipped_steps: Count = Field(
        default=10, description="how many steps may be skipped; one more stops the run"
    )
    log_every_images: Positive = Field(default=10_000, description="images between logged metrics")

    @field_validator("accumulation")
    @classmethod
    def _divides_batch_size(cls, accumulation: int, info: ValidationInfo) -> int:
        batch_size = info.data.get("batch_size", 0)
        if batch_size % accumulation:
            raise ValueError(f"{accumulation} does not divide training.batch_size ({batch_size})")
        return accumulation


class Evaluation(Section):
    """Validation during training, and the defaults of the evaluation after it."""

    every_images: Positive | None = Field(
        default=None, description="training images between validations; null: none"
    )
    images: int | None = Field(
        default=None, ge=2, description="evaluate only the first so many images; null: all"
    )
    batch_size: Positive = Field(default=128, le=MOST_AT_ONCE, description="images per batch")
    importance_samples: Positive = Field(
        default=1, description="latent samples per image; 1: the ELBO"
    )


class Samples(Section):
    """Sample grids drawn during training."""

    every_images: Positive | None = Field(
        default=None, description="training images between grids; null: none"
    )
    count: Positive = Field(default=64, le=MOST_AT_ONCE, description="images per grid")
    temperature: float = Field(
        default=1.0, ge=0, description="factor on the prior's standard deviation"
    )


class Checkpoints(Section):
    """Checkpoints of a run."""

    every_images: Positive | None = Field(
        default=None, description="training images between checkpoints; null: only at the end"
    )
    keep: Positive = Field(default=3, description="how many of the newest to keep")


class Export(Section):
    """How the trained model is shipped."""

    half: bool = Field(
        default=False,
        description="real weights are shipped, and those of the finished run are measured, in "
        "bfloat16",
    )


class Tracking(Section):
    """Weights & Biases; metrics.jsonl is written in any case."""

    wandb: Literal["online", "offline", "disabled"] = Field(
        default="disabled", description="its mode"
    )
    project: str = Field(default="tribin", description="the project that runs are filed under")
    entity: str | None = Field(default=None, description="its user or team; null: your default")


class Recipe(Section):
    """One run: the model, its data, and how it is trained, evaluated and tracked."""

    seed: int = Field(
        default=0, ge=0, lt=2**32, description="of the initialization, the data order and all noise"
    )
    model: ModelSection = Field(description="what to train")
    data: Data = Field(description="what to train it on")
    optimizer: Optimizer = Field(default=Optimizer(), description="how to step")
    training: Training = Field(description="how long and how to train")
    evaluation: Evaluation = Field(default=Evaluation(), description="how to measure it")
    samples: Samples = Field(default=Samples(), description="when to draw samples")
    checkpoints: Checkpoints = Field(default=Checkpoints(), description="when to save")
    export: Export = Field(default=Export(), description="how to ship the model")
    tracking: Tracking = Field(default=Tracking(), description="where to report to")

    @field_validator("evaluation")
    @classmethod
    def _has_validation_images(cls, evaluation: Evaluation, info: ValidationInfo) -> Evaluation:
        data = info.data.get("data")
        if evaluation.every_images and data and data.validation_images < 2:
            message = "validation needs images; set data.validation_images to 2 or more"
            raise PydanticCustomError("needs_images", message, {"field": "every_images"})
        return evaluation


def recipe_class(model_name: object) -> type[Recipe]:
    """Return the class of recipes for the model of that name.

    Where no model has the name, the class is ``Recipe`` itself, which finds the faults of the
    name and of the other sections.
    """
    return _recipe_class(str(model_name)) if model_name in list(MODELS) else Recipe


@cache
def _recipe_class(model_name: str) -> type[Recipe]:
    return _with_model(model_section(model_name))


def _with_model(section: Any) -> type[Recipe]:
    field = Recipe.model_fields["model"]
    return create_model("Recipe", __base__=Recipe, __doc__=Recipe.__doc__, model=(section, field))


def recipe_schema() -> dict[str, Any]:
    """Return the JSON schema of a complete recipe, with the sections of all registered models."""
    return _with_model(reduce(operator.or_, map(model_section, MODELS))).model_json_schema()
