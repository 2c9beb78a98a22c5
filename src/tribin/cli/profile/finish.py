"""How each ``tribin profile`` command ends that measures something."""

from datetime import datetime
from pathlib import Path

import click

from tribin.profiling.report import table, write_report
from tribin.profiling.result import Result


def finish(result: Result, output: Path | None, as_json: bool) -> Path:
    """Write the report's folder, print the table or the JSON, and name the folder on stderr.

    Args:
        result: what was measured.
        output: the folder; ``profiles/<kind>-<date and time>`` by default.
        as_json: print what ``results.json`` holds, in place of the table.

    Returns:
        The folder.

    Raises:
        InputError: if the folder can't be written.
    """
    folder = output or Path("profiles") / f"{result.kind}-{datetime.now():%Y%m%d-%H%M%S}"
    write_report(result, folder)
    click.echo(result.to_json() if as_json else table(result))
    click.echo(f"tribin: the results are in {folder}", err=True)
    return folder
