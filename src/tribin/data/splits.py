"""Open the train and test splits of an image set, still encoded, through ``datasets``."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tribin.data.sources import DATASETS, ImageSource, find_source
from tribin.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datasets import Dataset


class EncodedSplits(NamedTuple):
    """The train and test splits of an image set, and where they were found."""

    train: Dataset
    test: Dataset
    origin: str


def open_splits(name: str, path: str | Path | None) -> EncodedSplits:
    """Open an image set from ``path`` if given, else from the package or the hub.

    Raises:
        InputError: The set cannot be had, lacks a split, or is another version than its name says.
    """
    source = find_source(name)
    if path is not None:
        found, origin = _open_folder(Path(path)), Path(path).resolve().name
    elif source.embedded:
        found, origin = _open_embedded(name), "embedded"
    elif source.hub is not None:
        found, origin = _open_hub(name, source), source.hub
    else:
        raise InputError(f"data.path: missing; data.name {name!r} needs a folder ({source.note})")
    splits = EncodedSplits(
        _first_split(found, ("train",), origin),
        _first_split(found, source.test_splits, origin),
        origin,
    )
    _check_version(name, (len(splits.train), len(splits.test)))
    return splits


def _open_embedded(name: str) -> dict[str, Dataset]:
    # Not load_dataset, which would copy these few images into the user's cache.
    from datasets import Dataset
    from pyarrow import parquet

    folder = resources.files("tribin.data") / name
    files = {split: folder / f"{split}.parquet" for split in ("train", "test")}
    return {split: Dataset(parquet.read_table(file)) for split, file in files.items()}


def _open_folder(path: Path) -> Mapping[str, Dataset]:
    from datasets import load_dataset

    if not os.path.isdir(path):  # False where Path.is_dir raises, as for a name too long
        raise InputError(f"data.path: there is no folder {str(path)!r}")
    try:
        return load_dataset(str(path))
    except Exception as error:  # datasets and pyarrow have many of their own
        from tribin.data.blame import unreadable_file

        raise InputError(
            f"data.path: {str(path)!r} cannot be read ({unreadable_file(path) or error}); expected "
            "are train-*.parquet and test-*.parquet, or images under train/ and test/"
        ) from error


def _open_hub(name: str, source: ImageSource) -> Mapping[str, Dataset]:
    from datasets import load_dataset

    try:
        return load_dataset(source.hub, revision=source.revision)
    except Exception as error:  # so have the hub's client and its HTTP library
        raise InputError(
            f"data.name {name!r}: {source.hub} is not cached on this machine and could not be "
            f"fetched from the Hugging Face hub ({error}); run once with network access, or "
            "download its parquet files and set data.path=FOLDER"
        ) from error


def _first_split(found: Mapping[str, Dataset], names: tuple[str, ...], origin: str) -> Dataset:
    for name in names:
        if name in found and len(found[name]) > 0:
            return found[name]
    raise InputError(
        f"data: {origin} has no {' or '.join(names)} images, only the splits {', '.join(found)}; "
        "expected are train and test (or validation, which then serves as the test set)"
    )


def _check_version(name: str, counts: tuple[int, int]) -> None:
    expected = DATASETS[name].counts
    if expected is None or expected == counts:
        return
    hints = [
        f"these are the counts of data.name {other!r} ({source.note})"
        for other, source in DATASETS.items()
        if source.counts == counts
    ]
    raise InputError(
        f"data.name {name!r}: expected {_describe(expected)}, found {_describe(counts)}"
        + "".join(f"; {hint}" for hint in hints)
        + "; results on different versions are never comparable"
    )


def _describe(counts: tuple[int, int]) -> str:
    return f"{counts[0]:,} train and {counts[1]:,} test images"
