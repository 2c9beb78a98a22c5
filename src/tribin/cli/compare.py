"""``tribin compare``: trained models side by side."""

from pathlib import Path

import click

from tribin.cli.options import (
    batch_size_option,
    data_option,
    images_option,
    importance_samples_option,
)
from tribin.comparison import compare as compare_models
from tribin.comparison import to_json, to_markdown, write_report
from tribin.errors import InputError


@click.command()
@click.argument(
    "sources", metavar="RUN|FILE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@images_option
@batch_size_option
@importance_samples_option
@data_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for comparison.md, comparison.json and comparison.png, a plot.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def compare(
    sources: tuple[Path, ...],
    images: int | None,
    batch_size: int | None,
    importance_samples: int | None,
    data_path: Path | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure runs and packed files on the same test images, and print a table in Markdown.

    It has bits/dim, size, speed and peak memory; each model is measured in a process of its own.
    Models whose recipes differ in data or evaluation are compared only where an option says what
    holds for all.
    """
    result = compare_models(
        sources,
        images=images,
        batch_size=batch_size,
        importance_samples=importance_samples,
        data_path=data_path,
    )
    click.echo(to_json(result) if as_json else to_markdown(result))
    if output is not None:
        try:
            write_report(result, output)
        except OSError as error:
            raise InputError(f"--output: {output} cannot be written: {error.strerror}") from error
