"""Images for a campaign's training runs, in one file that torch alone can read.

    python -m benchmarks.gpu.images cifar10 -o images.pt [--count 20000]
    python -m benchmarks.gpu.images cifar10 -o test.pt --split test
    python -m benchmarks.gpu.images FOLDER -o images.pt

A name is that of a data set that recipes can name; a folder has parquet files or images of 32×32
pixels. The file holds all images of the split, or some of them: uint8 [N, 3, 32, 32].
"""

import argparse
import pickle
import sys
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from tribin.errors import InputError

Split = Literal["train", "test"]

SHAPE = (3, 32, 32)
HELD_OUT_AT_MOST = 1000
HELD_OUT_SHARE = 8
"""One in so many images is held out."""

FEWEST = 16
"""Of which two are held out: a standard error takes as many."""


class Images(NamedTuple):
    """Images to train on and others to evaluate on, uint8 [N, 3, 32, 32]; what the others are."""

    train: Tensor
    others: Tensor
    name: str


def read_images(data: Path, test: Path | None = None) -> Images:
    """The images of one file to train on, but for the last ones, which are held out.

    The others are those of the test file, or where there is none the ones held out: so training is
    the same with it and without it.

    Raises:
        InputError: if a file is missing, damaged, or holds something else.
    """
    images = _read(data, "--data")
    count = min(len(images) // HELD_OUT_SHARE, HELD_OUT_AT_MOST)
    train, held_out = images[:-count], images[-count:]
    if test:
        return Images(train, _read(test, "--test"), "test images")
    return Images(train, held_out, "held-out images")


def _read(file: Path, option: str) -> Tensor:
    try:
        images = torch.load(file, weights_only=True, mmap=True)
    except OSError as error:
        raise InputError(f"{option}: {file} cannot be read: {error.strerror}") from error
    except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"{option}: {file} holds no tensor saved by torch.save") from error
    if fault := _fault(images):
        raise InputError(f"{option}: {file} holds {fault}")
    return images


def _fault(images: Any) -> str | None:
    """What a file holds instead of images."""
    wanted = f"uint8 [N, 3, 32, 32] with at least {FEWEST} images"
    if not isinstance(images, Tensor):
        return f"a {type(images).__name__}, not {wanted}"
    if images.dtype != torch.uint8 or images.shape[1:] != SHAPE or len(images) < FEWEST:
        return f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}, not {wanted}"
    return None


def write_images(source: str, file: Path, count: int | None = None, split: Split = "train") -> int:
    """Write images of a data set or a folder; return how many.

    Those to train on are in an order of their own, as a file may hold the first ones alone; those
    to test on are in theirs.

    Raises:
        InputError: if they can't be had, or the file can't be written.
    """
    images = _load(source, split)[:count]
    if fault := _fault(images):
        raise InputError(f"{source} gives {fault}")
    try:
        with file.open("wb") as stream:
            torch.save(images.clone(), stream)  # of a part, all would be saved
    except OSError as error:
        raise InputError(f"--output: {file} cannot be written: {error.strerror}") from error
    return len(images)


def _load(source: str, split: Split) -> Tensor:
    from tribin.data import DATASETS, load_images

    if source in DATASETS:
        splits = load_images(source)
    elif Path(source).is_dir():
        splits = load_images("folder", source, SHAPE, 256)
    else:
        raise InputError(f"{source!r} is neither a folder nor one of {', '.join(DATASETS)}")
    if split == "test":
        return splits.test
    order = torch.randperm(len(splits.train), generator=torch.Generator().manual_seed(0))
    return splits.train[order]


def main() -> int:
    """Write the file; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.images")
    parser.add_argument("source", metavar="NAME_OR_FOLDER")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the file to write")
    parser.add_argument("--count", type=int, help="how many images at most")
    parser.add_argument("--split", choices=get_args(Split), default="train")
    arguments = parser.parse_args()
    try:
        count = write_images(arguments.source, arguments.output, arguments.count, arguments.split)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{count:,} images in {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
