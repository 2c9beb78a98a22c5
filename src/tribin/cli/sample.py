"""``tribin sample``: draw images from a run."""

import json
from pathlib import Path

import click
import torch

from tribin.errors import InputError
from tribin.seeding import seed_noise
from tribin.tracking import save_image_grid
from tribin.training.run_folder import RunFolder, default_device


@click.command()
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--count", type=click.IntRange(min=1), help="Images; the recipe's by default.")
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    help="Factor on the noise of latents and pixels; the recipe's by default.",
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
    seed: int,
    weights: str | None,
    output: Path,
    as_json: bool,
) -> None:
    """Draw images from a run's newest checkpoint and save them as one grid."""
    run = RunFolder.open(run_dir)
    model, weights = run.load_model(default_device(), weights)
    section = run.recipe.samples
    count = count or section.count
    temperature = section.temperature if temperature is None else temperature
    seed_noise(seed, "samples")
    with torch.no_grad():
        images = model.sample(count, temperature)
    try:
        save_image_grid(images, output, levels=model.levels)
    except OSError as error:
        raise InputError(f"{output} cannot be written: {error.strerror}") from error
    if as_json:
        result = {"file": str(output), "count": count, "temperature": temperature}
        click.echo(json.dumps({**result, "weights": weights}))
    else:
        click.echo(f"{output}: {count} images, temperature {temperature:g}, {weights} weights")
