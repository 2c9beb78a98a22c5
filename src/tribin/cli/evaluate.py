"""``tribin evaluate``: bits per dimension of a run, or of a packed file."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from tribin.cli.options import (
    batch_size_option,
    data_option,
    images_option,
    importance_samples_option,
    weights_option,
)
from tribin.trained_model import load_trained_model
from tribin.training.run_folder import default_device, load_data


@click.command()
@click.argument("source", metavar="RUN|FILE", type=click.Path(path_type=Path))
@importance_samples_option
@images_option
@batch_size_option
@weights_option
@data_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def evaluate(
    source: Path,
    importance_samples: int | None,
    images: int | None,
    batch_size: int | None,
    weights: str | None,
    data_path: Path | None,
    as_json: bool,
) -> None:
    """Measure the test bits per dimension of a run's newest checkpoint, or of a packed file.

    Each image counts exactly once. A density that is not finite fails the evaluation (exit code 3).
    """
    trained = load_trained_model(source, default_device(), weights)
    data = load_data(trained.recipe, data_path)
    result = trained.evaluate(
        data.test,
        images=images,
        batch_size=batch_size,
        importance_samples=importance_samples,
    )
    if as_json:
        click.echo(json.dumps({**asdict(result), "weights": trained.weights}))
        return
    click.echo(f"test bits/dim  {result.of_weights(trained.weights)}")
    click.echo(f"data           {data.source}")
