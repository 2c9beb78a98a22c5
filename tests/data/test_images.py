from importlib import resources
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from tests.image_files import write_parquet

from tribin.data import load_images
from tribin.data.order import validation_mask
from tribin.errors import InputError

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def random_pixels(images: int, channels: int, seed: int = 0) -> Pixels:
    """Return random uint8 [images, channels, 6, 5]."""
    shape = (images, channels, 6, 5)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def as_pictures(pixels: Pixels) -> list[Image.Image]:
    return [Image.fromarray(np.moveaxis(image, 0, -1).squeeze()) for image in pixels]


def grey_folder(folder: Path, pixels: Pixels) -> Path:
    return write_parquet(folder, train=as_pictures(pixels), test=as_pictures(pixels[:1]))


def test_digits_need_no_cache_and_are_silent(capfd: pytest.CaptureFixture[str]) -> None:
    digits = load_images("digits", validation_images=300)
    assert digits.train.shape == (1200, 1, 8, 8)
    assert digits.validation.shape == (300, 1, 8, 8)
    assert digits.test.shape == (297, 1, 8, 8)
    assert digits.train.dtype == digits.test.dtype == torch.uint8
    assert (digits.train.min(), digits.train.max(), digits.format.levels) == (0, 16, 17)
    assert digits.source == "digits (embedded): 1,200 train, 300 validation, 297 test"
    assert capfd.readouterr() == ("", "")
    assert list(Path(datasets.config.HF_DATASETS_CACHE).iterdir()) == []


def test_digits_are_the_published_set() -> None:
    """Sum and count of zeros of ``sklearn.datasets.load_digits().images``."""
    digits = load_images("digits")
    images = torch.cat([digits.train, digits.test])
    assert (images.sum().item(), (images == 0).sum().item()) == (561_718, 56_272)


def test_the_embedded_folder_is_a_data_folder_too() -> None:
    embedded = load_images("digits")
    with resources.as_file(resources.files("tribin.data") / "digits") as path:
        from_path = load_images("digits", path)
    assert torch.equal(from_path.train, embedded.train)
    assert torch.equal(from_path.test, embedded.test)


@pytest.mark.parametrize("channels", [1, 3])
def test_parquet_folder_keeps_pixels_and_order(tmp_path: Path, channels: int) -> None:
    train, test = random_pixels(7, channels), random_pixels(3, channels, seed=1)
    folder = write_parquet(tmp_path / "data", train=as_pictures(train), test=as_pictures(test))
    loaded = load_images("folder", folder, (channels, 6, 5))
    assert np.array_equal(loaded.train, train)
    assert np.array_equal(loaded.test, test)
    assert loaded.validation.shape == (0, channels, 6, 5)
    assert loaded.source == "folder (data): 7 train, 0 validation, 3 test"


def test_image_folder_with_a_validation_split_as_test_set(tmp_path: Path) -> None:
    pixels = random_pixels(4, 3)
    for split, images in {"train": pixels[:3], "validation": pixels[3:]}.items():
        (tmp_path / split).mkdir()
        for index, picture in enumerate(as_pictures(images)):
            picture.save(tmp_path / split / f"{index}.png")
    loaded = load_images("folder", tmp_path, (3, 6, 5))
    assert np.array_equal(loaded.train, pixels[:3])
    assert np.array_equal(loaded.test, pixels[3:])


def test_validation_is_cut_from_train(tmp_path: Path) -> None:
    pixels = random_pixels(20, 1)
    loaded = load_images("folder", grey_folder(tmp_path, pixels), (1, 6, 5), validation_images=6)
    held_out = validation_mask(20, 6).numpy()
    assert np.array_equal(loaded.validation, pixels[held_out])
    assert np.array_equal(loaded.train, pixels[~held_out])


def test_decoded_pixels_are_cached_until_the_folder_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = random_pixels(5, 1)
    folder = grey_folder(tmp_path, first)
    load_images("folder", folder, (1, 6, 5))
    with monkeypatch.context() as patch:
        patch.setattr(datasets.Image, "decode_example", None)
        assert np.array_equal(load_images("folder", folder, (1, 6, 5)).train, first)
    second = random_pixels(5, 1, seed=2)
    grey_folder(tmp_path, second)
    assert np.array_equal(load_images("folder", folder, (1, 6, 5)).train, second)


@pytest.mark.parametrize(
    ("image_shape", "levels", "message"),
    [
        (
            (1, 8, 5),
            256,
            r"train image 0 .* is 6×5 .* data.image_shape \[1, 8, 5\] needs 8×5",
        ),
        (
            (1, 5, 6),
            256,
            r"train image 0 .* is 6×5 .* data.image_shape \[1, 5, 6\] needs 5×6",
        ),
        ((3, 6, 5), 256, "train image 0 .* is 6×5 with mode L; .* needs 6×5 with mode RGB"),
        (
            (1, 6, 5),
            17,
            "data.levels: train image 0 .* holds the value 200, but 17 levels end",
        ),
    ],
)
def test_images_other_than_declared(
    tmp_path: Path, image_shape: tuple[int, int, int], levels: int, message: str
) -> None:
    folder = grey_folder(tmp_path, np.full((3, 1, 6, 5), 200, dtype=np.uint8))
    with pytest.raises(InputError, match=message):
        load_images("folder", folder, image_shape, levels)


@pytest.mark.parametrize("mode", ["1", "P", "RGB", "RGBA", "I;16"])
def test_grey_images_must_be_stored_as_grey(tmp_path: Path, mode: str) -> None:
    good = as_pictures(random_pixels(2, 1))
    folder = write_parquet(tmp_path, train=good, test=[*good, Image.new(mode, (5, 6))])
    with pytest.raises(InputError, match=rf"test image 2 \(.*, row 2\) is 6×5 with mode {mode};"):
        load_images("folder", folder, (1, 6, 5))


def test_a_broken_image(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "0.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"train image 0 \(.*/train/0.png\) cannot be decoded"):
        load_images("folder", tmp_path, (1, 6, 5))


@pytest.mark.parametrize("validation_images", [-1, 4, 5])
def test_too_many_validation_images(tmp_path: Path, validation_images: int) -> None:
    folder = grey_folder(tmp_path, random_pixels(4, 1))
    message = f"data.validation_images: {validation_images} cannot be cut from 4 train images"
    with pytest.raises(InputError, match=message):
        load_images("folder", folder, (1, 6, 5), validation_images=validation_images)


def test_a_set_without_one_column_of_images(tmp_path: Path) -> None:
    for split in ("train", "test"):
        datasets.Dataset.from_dict({"text": ["a"]}).to_parquet(str(tmp_path / f"{split}.parquet"))
    with pytest.raises(InputError, match=r"expected one column of images, found 0 in .*text"):
        load_images("folder", tmp_path, (1, 6, 5))
