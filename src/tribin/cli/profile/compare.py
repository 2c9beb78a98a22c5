"""``tribin profile compare``."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from tribin.cli.profile.options import json_option
from tribin.profiling.comparison import compare as compare_results
from tribin.profiling.comparison import table
from tribin.profiling.result import read_result


@click.command()
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@json_option
@click.pass_context
def compare(context: click.Context, old: Path, new: Path, as_json: bool) -> None:
    """Mark what became slower or faster from OLD to NEW, beyond the measured noise.

    OLD and NEW are results.json files of one kind of profile, or the folders that hold them. The
    exit code is 1 if anything is slower.
    """
    comparison = compare_results(read_result(old), read_result(new))
    click.echo(json.dumps(asdict(comparison), indent=2) if as_json else table(comparison))
    context.exit(1 if comparison.is_slower else 0)
