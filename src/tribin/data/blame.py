"""Which file, and which row of it, is at fault where an image set can't be read.

Nothing of this runs unless something has failed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import Image, load_dataset_builder
from pyarrow import ArrowException, parquet

if TYPE_CHECKING:
    from datasets import Dataset


def unreadable_file(folder: Path) -> str | None:
    """The first parquet file that can't be read, or differs in its columns, and why."""
    first: Path | None = None
    for file in sorted(folder.rglob("*.parquet")):
        try:
            for _ in parquet.ParquetFile(file).iter_batches():
                pass
        except (ArrowException, OSError) as error:
            return f"{file}: {error}"
        if first is None:
            first = file
        elif (columns := _columns(file)) != (expected := _columns(first)):
            return f"{file} has the columns {columns}, and {first.name} has {expected}"
    return None


def place_of_image(dataset: Dataset, column: str, index: int, folder: Path | None) -> str:
    """The file of an image, and its row there; empty where the images came from the hub.

    Args:
        dataset: a split.
        column: of the images.
        index: of the image in the split.
        folder: that the split was read from.
    """
    encoded = dataset.cast_column(column, Image(decode=False))[index][column] or {}
    if encoded.get("bytes") is None and os.path.isfile(encoded.get("path") or ""):
        return str(encoded["path"])
    if folder is None:
        return ""
    for file in _files(folder, str(dataset.split)):
        rows = parquet.ParquetFile(file).metadata.num_rows
        if index < rows:
            return f"{file}, row {index}"
        index -= rows
    return ""


def _files(folder: Path, split: str) -> list[str]:
    """The parquet files of a split, in the order of its rows."""
    files = (load_dataset_builder(str(folder)).config.data_files or {}).get(split, [])
    return [file for file in map(str, files) if file.endswith(".parquet")]


def _columns(file: Path) -> dict[str, str]:
    schema = parquet.read_schema(file)
    return {field.name: str(field.type) for field in schema}
