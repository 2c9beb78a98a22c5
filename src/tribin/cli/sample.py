"""``tribin sample``: draw images from a run, or a packed file."""

import json
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from tribin.cli.options import data_option, weights_option
from tribin.errors import InputError
from tribin.seeding import seed_noise
from tribin.tracking import pair_up, save_image_grid
from tribin.trained_model import TrainedModel, load_trained_model
from tribin.training.run_folder import default_device, load_data


@click.command()
@click.argument("source", metavar="RUN|FILE", type=click.Path(path_type=Path))
@click.option("--count", type=click.IntRange(min=1), help="Images; the recipe's by default.")
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    help="Factor on the noise of latents and pixels; the recipe's by default.",
)
@click.option(
    "--interpolate",
    "steps",
    type=click.IntRange(min=2),
    metavar="STEPS",
    help="Instead of samples, rows of so many images from one test image to another.",
)
@click.option(
    "--reconstruct",
    is_flag=True,
    help="Instead of samples, test images, each above its reconstruction.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@weights_option
@data_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("samples.png"),
    show_default=True,
    help="PNG file of the grid.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def sample(
    source: Path,
    count: int | None,
    temperature: float | None,
    steps: int | None,
    reconstruct: bool,
    seed: int,
    weights: str | None,
    data_path: Path | None,
    output: Path,
    as_json: bool,
) -> None:
    """Draw images from a run's newest checkpoint, or a packed file, and save them as one grid."""
    if (steps is not None) + reconstruct + (temperature is not None) > 1:
        raise click.UsageError(
            "--interpolate, --reconstruct and --temperature, which is of samples, "
            "exclude each other"
        )
    trained = load_trained_model(source, default_device(), weights)
    section = trained.recipe.samples
    count = count or section.count
    seed_noise(seed, "samples")
    kind: dict[str, float | bool]
    with torch.no_grad():
        if steps is not None:
            images = _interpolations(trained, data_path, count, steps)
            kind = {"interpolate": steps}
        elif reconstruct:
            images, kind = _reconstructions(trained, data_path, count), {"reconstruct": True}
        else:
            temperature = section.temperature if temperature is None else temperature
            images = trained.model.sample(count, temperature)
            kind = {"temperature": temperature}
    try:
        save_image_grid(images, output, columns=steps, levels=trained.model.levels)
    except OSError as error:
        raise InputError(f"{output} cannot be written: {error.strerror}") from error
    result = {"file": str(output), "count": len(images), **kind, "weights": trained.weights}
    click.echo(json.dumps(result) if as_json else _sentence(result, kind))


def _sentence(result: dict[str, Any], kind: dict[str, float | bool]) -> str:
    [(name, value)] = kind.items()
    what = "reconstructions" if name == "reconstruct" else f"{name} {value:g}"
    return f"{result['file']}: {result['count']} images, {what}, {result['weights']} weights"


def _reconstructions(trained: TrainedModel, data_path: Path | None, count: int) -> Tensor:
    """`count` test images, each above its reconstruction."""
    images = load_data(trained.recipe, data_path).test[:count].to(trained.model.device)
    return pair_up(images, trained.model.reconstruct(images))


def _interpolations(
    trained: TrainedModel, data_path: Path | None, count: int, steps: int
) -> Tensor:
    """At most `count` images, in rows of `steps`, between neighbours in the test set."""
    test = load_data(trained.recipe, data_path).test
    rows = min(max(count // steps, 1), len(test) // 2)
    ends = test[: 2 * rows].to(trained.model.device)
    return trained.model.interpolate(ends[0::2], ends[1::2], steps).flatten(0, 1)
