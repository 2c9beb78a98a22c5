"""Image sets on disk, as users have them."""

from pathlib import Path

import datasets
import numpy as np
from PIL import Image

Pictures = list[Image.Image]


def pictures(
    count: int, channels: int, height: int, width: int, levels: int = 256, seed: int = 0
) -> Pictures:
    """Random images, grey or RGB."""
    shape = (count, height, width, channels)
    pixels = np.random.default_rng(seed).integers(0, levels, shape, dtype=np.uint8)
    return [Image.fromarray(image.squeeze()) for image in pixels]


def write_pngs(folder: Path, **splits: Pictures) -> Path:
    """One PNG file an image, in a folder a split."""
    for split, images in splits.items():
        (folder / split).mkdir(parents=True)
        for index, image in enumerate(images):
            image.save(folder / split / f"{index:04}.png")
    return folder


def write_parquet(folder: Path, **splits: Pictures) -> Path:
    """One parquet file a split, with a label beside the image, in the hub's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    features = datasets.Features({"label": datasets.Value("int64"), "img": datasets.Image()})
    for split, images in splits.items():
        rows = {"label": [0] * len(images), "img": images}
        table = datasets.Dataset.from_dict(rows, features=features)
        table.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    return folder
