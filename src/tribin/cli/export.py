"""``tribin export``: a run as one packed file."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from tribin.cli.options import data_option, weights_option
from tribin.export import Export
from tribin.export import export as export_run
from tribin.training.run_folder import RunFolder, load_data


@click.command()
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The file; packed.safetensors in the run's folder by default.",
)
@click.option(
    "--half/--no-half",
    default=None,
    help="Whether to round real weights to bfloat16; the recipe says by default.",
)
@weights_option
@data_option
@click.option(
    "--evaluate/--no-evaluate",
    default=True,
    help="Whether to measure the file's bits/dim on the test images, for the model card.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def export(
    run_dir: Path,
    output: Path | None,
    half: bool | None,
    weights: str | None,
    data_path: Path | None,
    evaluate: bool,
    as_json: bool,
) -> None:
    """Write a run's newest checkpoint as one packed file, with a model card beside it.

    Binary layers are shipped as bits. The file is read again and evaluated before it is reported.
    """
    data = load_data(RunFolder.open(run_dir).recipe, data_path) if evaluate else None
    result = export_run(run_dir, output, half=half, weights=weights, data=data)
    click.echo(json.dumps(_record(result)) if as_json else _summary(result))


def _record(result: Export) -> dict[str, object]:
    measured = asdict(result.evaluation) if result.evaluation else {}
    return {
        "file": str(result.file),
        "card": str(result.card),
        "bytes": result.packed.bytes_on_disk,
        "float_bytes": result.float_bytes,
        **measured,
        "half_cost": result.half_cost,
        "weights": result.packed.weights,
    }


def _summary(result: Export) -> str:
    size = result.packed.bytes_on_disk
    lines = [
        f"file           {result.file}",
        f"model card     {result.card}",
        f"size           {size:,} bytes (float32: {result.float_bytes:,} bytes, "
        f"−{1 - size / result.float_bytes:.2%})",
    ]
    if result.evaluation:
        lines.append(f"test bits/dim  {result.evaluation.of_weights(result.packed.weights)}")
    if result.half_cost is not None:
        lines.append(f"of bfloat16    {result.half_cost:+.4f} bits/dim")
    return "\n".join(lines)
