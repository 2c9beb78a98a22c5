"""Images for a campaign's training runs, in one file that torch alone can read.

    python -m benchmarks.gpu.images cifar10 -o images.pt [--count 20000]
    python -m benchmarks.gpu.images FOLDER -o images.pt

The first form reads a data set that recipes can name, the second a folder of parquet files or
images of 32×32 pixels. The file holds some of the training images, uint8 [N, 3, 32, 32].
"""

import argparse
import pickle
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tribin.errors import InputError

SHAPE = (3, 32, 32)
HELD_OUT_AT_MOST = 1000
HELD_OUT_SHARE = 8
"""One in so many images is held out."""

FEWEST = 16
"""Of which two are held out: a standard error takes as many."""


def read_images(file: Path) -> tuple[Tensor, Tensor]:
    """The images to train on and those that are held out, the last ones: uint8 [N, 3, 32, 32].

    Raises:
        InputError: if the file is missing, damaged, or holds something else.
    """
    try:
        images = torch.load(file, weights_only=True, mmap=True)
    except OSError as error:
        raise InputError(f"--data: {file} cannot be read: {error.strerror}") from error
    except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"--data: {file} holds no tensor saved by torch.save") from error
    if fault := _fault(images):
        raise InputError(f"--data: {file} holds {fault}")
    held_out = min(len(images) // HELD_OUT_SHARE, HELD_OUT_AT_MOST)
    return images[:-held_out], images[-held_out:]


def _fault(images: Any) -> str | None:
    """What a file holds instead of images."""
    wanted = f"uint8 [N, 3, 32, 32] with at least {FEWEST} images"
    if not isinstance(images, Tensor):
        return f"a {type(images).__name__}, not {wanted}"
    if images.dtype != torch.uint8 or images.shape[1:] != SHAPE or len(images) < FEWEST:
        return f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}, not {wanted}"
    return None


def write_images(source: str, file: Path, count: int | None = None) -> int:
    """Write training images of a data set or a folder, in an order of their own; return how many.

    Raises:
        InputError: if they can't be had, or the file can't be written.
    """
    images = _load(source)[:count]
    if fault := _fault(images):
        raise InputError(f"{source} gives {fault}")
    try:
        with file.open("wb") as stream:
            torch.save(images, stream)
    except OSError as error:
        raise InputError(f"--output: {file} cannot be written: {error.strerror}") from error
    return len(images)


def _load(source: str) -> Tensor:
    from tribin.data import DATASETS, load_images

    if source in DATASETS:
        train = load_images(source).train
    elif Path(source).is_dir():
        train = load_images("folder", source, SHAPE, 256).train
    else:
        raise InputError(f"{source!r} is neither a folder nor one of {', '.join(DATASETS)}")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    return train[order].clone()


def main() -> int:
    """Write the file; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.images")
    parser.add_argument("source", metavar="NAME_OR_FOLDER")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the file to write")
    parser.add_argument("--count", type=int, help="how many images at most")
    arguments = parser.parse_args()
    try:
        count = write_images(arguments.source, arguments.output, arguments.count)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{count:,} images in {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
