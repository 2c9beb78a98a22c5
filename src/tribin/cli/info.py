"""``tribin info``: the size of a model, and what a packed file holds."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch

from tribin.cli.source import is_packed, refuse_overrides
from tribin.cost import evaluation_multiply_adds, sampling_multiply_adds
from tribin.inspection import FLOAT_BITS, model_size
from tribin.models import GenerativeModel
from tribin.packed import PackedFile, read_packed, restore
from tribin.recipe import Recipe, load_recipe
from tribin.training.run_folder import RunFolder, build_model

COLUMNS = {
    "layer": "name",
    "kind": "kind",
    "parameters": "parameters",
    "binary": "binary_parameters",
    "bits": "bits",
    "float32 bytes": "float_bytes",
    "packed bytes": "packed_bytes",
    "multiply-adds": "multiply_adds",
}
"""The table's columns, and the keys of the record that they show."""


@click.command()
@click.argument("source", metavar="RECIPE|RUN|FILE")
@click.argument("overrides", metavar="[KEY.PATH=VALUE]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def info(source: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print a model's parameters, bytes and multiply-adds, layer by layer.

    Bytes are those as float32 and packed. Multiply-adds are those of matrix products and
    convolutions, for one draw of the density of one image; in all also for one sample.
    Of a packed file, it also says what the file holds and where that comes from.
    """
    path = Path(source)
    if is_packed(path):
        refuse_overrides(overrides, "packed file")
        record = _file_record(path)
    else:
        recipe = _recipe(source, overrides)
        with torch.device("meta"):  # nothing is allocated
            model = build_model(recipe)
        record = _model_record(model, real_bits=16 if recipe.export.half else FLOAT_BITS)
    click.echo(json.dumps(record) if as_json else _text(record))


def _recipe(source: str, overrides: tuple[str, ...]) -> Recipe:
    if not os.path.isdir(source):  # path.is_dir raises where a name is too long
        return load_recipe(source, overrides)
    refuse_overrides(overrides, "run")
    return RunFolder.open(Path(source)).recipe


def _model_record(model: GenerativeModel, real_bits: int = FLOAT_BITS) -> dict[str, Any]:
    size = asdict(model_size(model, real_bits=real_bits))
    layers = size.pop("layers")
    evaluation, sampling = evaluation_multiply_adds(model), sampling_multiply_adds(model)
    for layer in layers:
        layer["multiply_adds"] = None if evaluation is None else evaluation.get(layer["name"], 0)
    return {
        **size,
        "multiply_adds": None if evaluation is None else sum(evaluation.values()),
        "sampling_multiply_adds": None if sampling is None else sum(sampling.values()),
        "layers": layers,
    }


def _file_record(path: Path) -> dict[str, Any]:
    file = read_packed(path)
    model = restore(file, path)
    assert isinstance(model, GenerativeModel)  # a file describes no other
    real_bits = min(x.itemsize * 8 for x in file.tensors.values() if x.is_floating_point())
    return {"file": _provenance(path, file, real_bits), **_model_record(model, real_bits)}


def _provenance(path: Path, file: PackedFile, real_bits: int) -> dict[str, Any]:
    header = file.header
    provenance, recipe = header.get("provenance"), header.get("recipe")
    if not isinstance(provenance, dict):
        provenance = {}
    return {
        "path": str(path),
        "bytes": path.stat().st_size,
        "sha256": header["sha256"],
        "format_version": header["format_version"],
        "tribin": header.get("tribin"),
        "real_bits": real_bits,
        "model": header["model"]["name"],
        "weights": provenance.get("weights"),
        "images_seen": provenance.get("images_seen"),
        "recipe": recipe,
    }


def _text(record: dict[str, Any]) -> str:
    share = record["binary_parameters"] / record["parameters"]
    reduction = 1 - record["packed_bytes"] / record["float_bytes"]
    lines = [
        *_table(record),
        f"{share:.2%} of the parameters are binary; packed, the model is {reduction:.2%} "
        "smaller than as float32",
        f"{_cell(record['multiply_adds'])} multiply-adds evaluate an image, "
        f"{_cell(record['sampling_multiply_adds'])} draw one",
    ]
    return "\n".join([*lines, *(_file_lines(record) if "file" in record else [])])


def _table(record: dict[str, Any]) -> list[str]:
    total = {**record, "name": "total", "kind": "", "bits": ""}
    layers = [{**layer, "name": layer["name"] or "(model)"} for layer in record["layers"]]
    rows = [[_cell(row[key]) for key in COLUMNS.values()] for row in (*layers, total)]
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index < 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (list(COLUMNS), *rows)
    ]


def _cell(value: str | int | None) -> str:
    if value is None:
        return "unknown"
    return value if isinstance(value, str) else f"{value:,}"


def _file_lines(record: dict[str, Any]) -> list[str]:
    file = record["file"]
    reduction = 1 - file["bytes"] / record["float_bytes"]
    return [
        f"file     {file['path']}: {file['bytes']:,} bytes on disk, {reduction:.2%} smaller than "
        "as float32",
        f"sha256   {file['sha256']}",
        f"format   {file['format_version']}, written by tribin {_cell(file['tribin'])}, "
        f"real weights in {'bfloat16' if file['real_bits'] == 16 else 'float32'}",
        f"model    {file['model']}, {_cell(file['weights'])} weights after "
        f"{_cell(file['images_seen'])} images",
    ]
