"""Options that several commands share."""

from pathlib import Path

import click

weights_option = click.option(
    "--weights", type=click.Choice(["raw", "ema"]), help="Of a run; ema by default, if kept."
)

data_option = click.option(
    "--data",
    "data_path",
    type=click.Path(path_type=Path),
    help="Where the images are, in place of the recipe's data.path.",
)

images_option = click.option(
    "--images", type=click.IntRange(min=2), help="Only the first so many; the recipe's by default."
)

batch_size_option = click.option(
    "--batch-size", type=click.IntRange(min=1), help="The recipe's by default."
)

importance_samples_option = click.option(
    "--importance-samples",
    type=click.IntRange(min=1),
    help="Draws per image: 1 gives the ELBO, more a tighter bound. The recipe's by default.",
)
