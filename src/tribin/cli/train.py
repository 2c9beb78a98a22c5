"""``tribin train`` and ``tribin resume``: run a recipe."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from tribin.distributed import is_first, process_group, restarts_by_itself
from tribin.errors import InputError
from tribin.recipe import load_recipe
from tribin.training.trainer import resume as resume_run
from tribin.training.trainer import train as train_run

json_option = click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
debug_non_finite_option = click.option(
    "--debug-non-finite",
    is_flag=True,
    help="Run a step that is not finite again, and name the layer where it first was not.",
)


@click.command()
@click.argument("source", metavar="RECIPE")
@click.argument("overrides", metavar="[KEY.PATH=VALUE]...", nargs=-1)
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path),
    help="Folder of the run; runs/<recipe>-<date and time> by default.",
)
@debug_non_finite_option
@json_option
def train(
    source: str,
    overrides: tuple[str, ...],
    run_dir: Path | None,
    debug_non_finite: bool,
    as_json: bool,
) -> None:
    """Train a recipe.

    RECIPE is a file or the name of a shipped recipe, such as resnet_vae/digits_w1a1.
    """
    recipe = load_recipe(source, overrides)
    if run_dir is None:
        if restarts_by_itself():
            raise InputError("--max-restarts takes --run-dir, where a restart finds the run")
        run_dir = Path("runs") / f"{Path(source).stem}-{datetime.now():%Y%m%d-%H%M%S}"
    with process_group():
        summary = train_run(recipe, run_dir, debug_non_finite=debug_non_finite)
        if is_first():
            _print_summary(summary, run_dir, as_json)


@click.command()
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path))
@debug_non_finite_option
@json_option
def resume(run_dir: Path, debug_non_finite: bool, as_json: bool) -> None:
    """Go on with a run from its newest intact checkpoint, bit for bit."""
    with process_group():
        summary = resume_run(run_dir, debug_non_finite=debug_non_finite)
        if is_first():
            _print_summary(summary, run_dir, as_json)


def _print_summary(summary: dict[str, Any], run_dir: Path, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(summary))
        return
    binary_share = summary["binary_parameters"] / summary["parameters"]
    smaller = 1 - summary["packed_bytes"] / summary["float_bytes"]
    rows = {
        "test bits/dim": f"{summary['bits_per_dim']:.4f} ± {summary['standard_error']:.4f} "
        f"({summary['images']:,} images, {summary['weights']} weights, "
        f"{summary['importance_samples']} sample{'s' * (summary['importance_samples'] > 1)})",
        "parameters": f"{summary['parameters']:,}, {binary_share:.2%} of them binary",
        "float32 size": f"{summary['float_bytes']:,} bytes",
        "packed size": f"{summary['packed_bytes']:,} bytes (−{smaller:.1%})",
        "samples": str(run_dir / "samples.png"),
        "folder": str(run_dir),
    }
    for name, value in rows.items():
        click.echo(f"{name:<14} {value}")
