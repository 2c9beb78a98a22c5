"""``tribin study``: a list of recipes, several seeds, one table."""

from pathlib import Path

import click

from tribin.errors import InputError
from tribin.study import load_study, rows_of, run_study, to_markdown, write_report
from tribin.study.report import to_json


@click.command()
@click.argument("source", metavar="STUDY")
@click.argument("overrides", metavar="[KEY.PATH=VALUE]...", nargs=-1)
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the study; studies/<name> by default.",
)
@click.option(
    "--device",
    "devices",
    multiple=True,
    metavar="INDEX|cpu",
    help="Train on this GPU, or on the CPU; given several times, so many runs side by side.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def study(
    source: str,
    overrides: tuple[str, ...],
    folder: Path | None,
    devices: tuple[str, ...],
    as_json: bool,
) -> None:
    """Train the recipes of a study with each of its seeds, and print one table.

    STUDY is a file or the name of a shipped study. What is finished is not trained again, and what
    was cut goes on: the same command does both. KEY.PATH=VALUE holds for all its recipes.
    """
    _check_devices(devices)
    plan = load_study(source, overrides)
    folder = folder or Path("studies") / plan.name
    try:
        run_study(plan, folder, devices)
        rows = rows_of(plan, folder)
        write_report(plan, rows, folder)
    except OSError as error:
        raise InputError(f"{error.filename} cannot be written: {error.strerror}") from error
    click.echo(to_json(plan, rows) if as_json else to_markdown(rows))


def _check_devices(devices: tuple[str, ...]) -> None:
    for device in devices:
        if device != "cpu" and not device.isdecimal():
            raise InputError(f"--device: {device!r} is neither cpu nor the index of a GPU")
