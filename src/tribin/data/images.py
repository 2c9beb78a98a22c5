"""Load an image set into memory: uint8 tensors for train, validation and test."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tribin.data.order import validation_mask
from tribin.data.sources import ImageFormat, image_format
from tribin.data.splits import open_splits
from tribin.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from datasets import Dataset
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor

_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class ImageSplits:
    """An image set in memory.

    Attributes:
        train: Training images, uint8 [images, channels, height, width], in their original order.
        validation: Images cut from train for selecting models, in the same layout; may be empty.
        test: Test images, in the same layout.
        format: Shape and levels of every image.
        source: Name, origin and counts, for logs and beside results.
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    format: ImageFormat
    source: str


def load_images(
    name: str,
    path: str | Path | None = None,
    image_shape: Sequence[int] | None = None,
    levels: int | None = None,
    validation_images: int = 0,
) -> ImageSplits:
    """Load an image set; the decoded pixels are cached by ``datasets`` for the next call.

    Args:
        name: A key of ``DATASETS``.
        path: A folder of parquet files or images to read instead of the hub or the package.
        image_shape: Channels, height and width as the recipe declares them; needed for ``folder``.
        levels: Values per pixel as the recipe declares them.
        validation_images: How many images to cut from train; the choice is always the same.

    Raises:
        InputError: The set cannot be had, or its images are not what the recipe says.
    """
    expected = image_format(name, image_shape, levels)
    encoded = open_splits(name, path)
    if not 0 <= validation_images < len(encoded.train):
        raise InputError(
            f"data.validation_images: {validation_images:,} cannot be cut from "
            f"{len(encoded.train):,} train images"
        )
    folder = None if path is None else Path(path)
    train = _decode(encoded.train, "train", expected, folder)
    held_out = validation_mask(len(train), validation_images)
    splits = {
        "train": train[~held_out] if validation_images else train,
        "validation": train[held_out],
        "test": _decode(encoded.test, "test", expected, folder),
    }
    counts = ", ".join(f"{len(images):,} {split}" for split, images in splits.items())
    return ImageSplits(**splits, format=expected, source=f"{name} ({encoded.origin}): {counts}")


def _decode(dataset: Dataset, split: str, expected: ImageFormat, folder: Path | None) -> Tensor:
    """Decode every image of a split into uint8 [images, channels, height, width]."""
    import torch

    column = _image_column(dataset)
    try:
        if dataset.cache_files:
            rows = _decode_cached(dataset, column, split, expected.shape)
        else:  # the embedded set, which is in memory
            rows = [decode_batch(dataset[:], column, expected.shape)["pixels"]]
    except Exception:  # each image format has its own
        _raise_for_first_fault(dataset, column, split, expected.shape, folder)
        raise
    images = torch.from_numpy(np.concatenate(rows, axis=None)).view(-1, *expected.shape)
    _check_levels(images, expected.levels, partial(_name, dataset, column, split, folder))
    return images


def _decode_cached(
    dataset: Dataset, column: str, split: str, shape: tuple[int, int, int]
) -> list[NDArray[np.uint8]]:
    """Decode through the cache of ``datasets``; return views of the cached file, batch by batch."""
    from datasets import Features, List, Value

    pixels = List(Value("uint8"), length=math.prod(shape))
    decoded = dataset.map(
        decode_batch,
        batched=True,
        fn_kwargs={"column": column, "shape": shape},
        remove_columns=dataset.column_names,
        features=Features({"pixels": pixels}),
        desc=f"Decoding {split} images",
    )
    return [batch.flatten().to_numpy() for batch in decoded.data.column("pixels").chunks]


def _image_column(dataset: Dataset) -> str:
    import datasets

    features = dataset.features
    columns = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    if len(columns) != 1:
        raise InputError(f"data: expected one column of images, found {len(columns)} in {features}")
    return columns[0]


def decode_batch(
    batch: Mapping[str, Any], column: str, shape: tuple[int, int, int]
) -> dict[str, NDArray[np.uint8]]:
    """Turn a batch of encoded images into rows of pixels, uint8 [images, channels·height·width].

    A public function of plain arguments, so that ``datasets`` can name its result in the cache.

    Raises:
        Exception: An image cannot be decoded, or has another shape.
    """
    return {"pixels": np.stack([_pixels(image, shape) for image in batch[column]])}


def _pixels(image: Image | None, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    channels, height, width = shape
    mode = _MODES[channels]
    if image is None:
        raise ValueError("is missing")
    if (image.mode, image.height, image.width) != (mode, height, width):
        raise ValueError(
            f"is {image.height}×{image.width} with mode {image.mode}; "
            f"data.image_shape {list(shape)} needs {height}×{width} with mode {mode}"
        )
    pixels = np.asarray(image).reshape(height, width, channels)
    return pixels.transpose(2, 0, 1).reshape(-1)


def _raise_for_first_fault(
    dataset: Dataset, column: str, split: str, shape: tuple[int, int, int], folder: Path | None
) -> None:
    """Raise the InputError of the first image that is not as expected, if there is one."""
    for index in range(len(dataset)):
        try:
            image = dataset[index][column]
        except Exception as error:
            fault = f"cannot be decoded ({error})"
        else:
            try:
                _pixels(image, shape)
                continue
            except ValueError as error:
                fault = str(error)
        raise InputError(f"data: {_name(dataset, column, split, folder, index)} {fault}")


def _name(dataset: Dataset, column: str, split: str, folder: Path | None, index: int) -> str:
    from tribin.data.blame import place_of_image

    place = place_of_image(dataset, column, index, folder)
    return f"{split} image {index}" + (f" ({place})" if place else "")


def _check_levels(images: Tensor, levels: int, name: Callable[[int], str]) -> None:
    largest = int(images.max())
    if largest >= levels:
        index = int((images.flatten(1).amax(1) == largest).nonzero()[0])
        raise InputError(
            f"data.levels: {name(index)} holds the value {largest}, but {levels} levels end at "
            f"{levels - 1}"
        )
