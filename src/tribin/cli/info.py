"""``tribin info``: the size of a model."""

import json
from dataclasses import asdict
from pathlib import Path

import click
import torch

from tribin.errors import InputError
from tribin.inspection import LayerSize, ModelSize, model_size
from tribin.recipe import Recipe, load_recipe
from tribin.training.run_folder import RunFolder, build_model


@click.command()
@click.argument("source", metavar="RECIPE|RUN")
@click.argument("overrides", metavar="[KEY.PATH=VALUE]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def info(source: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print a model's parameters and bytes, as float32 and packed, layer by layer."""
    with torch.device("meta"):  # nothing is allocated
        size = model_size(build_model(_recipe(source, overrides)))
    click.echo(json.dumps(asdict(size)) if as_json else _table(size))


def _recipe(source: str, overrides: tuple[str, ...]) -> Recipe:
    if not Path(source).is_dir():
        return load_recipe(source, overrides)
    if overrides:
        raise InputError(f"{overrides[0]}: a run's recipe can't be overridden")
    return RunFolder.open(Path(source)).recipe


def _table(size: ModelSize) -> str:
    header = ("layer", "kind", "parameters", "binary", "float32 bytes", "packed bytes")
    rows = [(layer.name or "(model)", layer.kind, *_numbers(layer)) for layer in size.layers] + [
        ("total", "", *_numbers(size))
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if index < 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (header, *rows)
    ]
    share = size.binary_parameters / size.parameters
    reduction = 1 - size.packed_bytes / size.float_bytes
    lines.append(f"{share:.2%} of the parameters are binary; packed, the model is {reduction:.2%} "
                 "smaller than as float32")  # fmt: skip
    return "\n".join(lines)


def _numbers(size: ModelSize | LayerSize) -> tuple[str, ...]:
    return tuple(
        f"{value:,}"
        for value in (
            size.parameters, size.binary_parameters, size.float_bytes, size.packed_bytes,
        )
    )  # fmt: skip
