"""``tribin sample``: draw images from a run."""

import json
from pathlib import Path

import click
import torch
from torch import Tensor

from tribin.errors import InputError
from tribin.models import GenerativeModel
from tribin.seeding import seed_noise
from tribin.tracking import save_image_grid
from tribin.training.run_folder import RunFolder, default_device, load_data


@click.command()
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path))
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
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--weights", type=click.Choice(["raw", "ema"]), help="ema by default, if kept.")
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
    run_dir: Path,
    count: int | None,
    temperature: float | None,
    steps: int | None,
    seed: int,
    weights: str | None,
    output: Path,
    as_json: bool,
) -> None:
    """Draw images from a run's newest checkpoint and save them as one grid."""
    if steps is not None and temperature is not None:
        raise click.UsageError(
            "--temperature scales the noise of samples; --interpolate draws none"
        )
    run = RunFolder.open(run_dir)
    model, weights = run.load_model(default_device(), weights)
    section = run.recipe.samples
    count = count or section.count
    temperature = section.temperature if temperature is None else temperature
    seed_noise(seed, "samples")
    with torch.no_grad():
        if steps is None:
            images, kind = model.sample(count, temperature), {"temperature": temperature}
        else:
            test = load_data(run.recipe).test
            images, kind = _interpolations(model, test, count, steps), {"interpolate": steps}
    try:
        save_image_grid(images, output, columns=steps, levels=model.levels)
    except OSError as error:
        raise InputError(f"{output} cannot be written: {error.strerror}") from error
    if as_json:
        result = {"file": str(output), "count": len(images), **kind, "weights": weights}
        click.echo(json.dumps(result))
    else:
        [(name, value)] = kind.items()
        click.echo(f"{output}: {len(images)} images, {name} {value:g}, {weights} weights")


def _interpolations(model: GenerativeModel, test: Tensor, count: int, steps: int) -> Tensor:
    """At most `count` images, in rows of `steps`, between neighbours in the test set."""
    rows = min(max(count // steps, 1), len(test) // 2)
    ends = test[: 2 * rows].to(model.device)
    return model.interpolate(ends[0::2], ends[1::2], steps).flatten(0, 1)
