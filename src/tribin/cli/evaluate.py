"""``tribin evaluate``: bits per dimension of a run."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from tribin.evaluation import evaluate as evaluate_model
from tribin.training.run_folder import RunFolder, default_device, load_data


@click.command()
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--importance-samples",
    type=click.IntRange(min=1),
    help="Draws per image: 1 gives the ELBO, more a tighter bound. The recipe's by default.",
)
@click.option(
    "--images", type=click.IntRange(min=2), help="Only the first so many; the recipe's by default."
)
@click.option("--batch-size", type=click.IntRange(min=1), help="The recipe's by default.")
@click.option("--weights", type=click.Choice(["raw", "ema"]), help="ema by default, if kept.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def evaluate(
    run_dir: Path,
    importance_samples: int | None,
    images: int | None,
    batch_size: int | None,
    weights: str | None,
    as_json: bool,
) -> None:
    """Measure the test bits per dimension of a run's newest checkpoint.

    Each image counts exactly once. A density that is not finite fails the evaluation (exit code 3).
    """
    run = RunFolder.open(run_dir)
    model, weights = run.load_model(default_device(), weights)
    section, data = run.recipe.evaluation, load_data(run.recipe)
    result = evaluate_model(
        model,
        data.test[: images or section.images],
        batch_size=batch_size or section.batch_size,
        importance_samples=importance_samples or section.importance_samples,
        seed=run.recipe.seed,
    )
    if as_json:
        click.echo(json.dumps({**asdict(result), "weights": weights}))
        return
    bound = "ELBO" if result.importance_samples == 1 else f"IW-{result.importance_samples}"
    click.echo(
        f"test bits/dim  {result.bits_per_dim:.4f} ± {result.standard_error:.4f} "
        f"({bound}, {result.images:,} images, {weights} weights)"
    )
    click.echo(f"data           {data.source}")
