from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tribin.errors import InputError
from tribin.tracking import pair_up, save_image_grid


def read_png(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def random_images(*shape: int, levels: int = 256) -> Tensor:
    return torch.randint(0, levels, shape, dtype=torch.uint8)


def test_every_pixel_of_a_small_grid(tmp_path: Path) -> None:
    # Three images of 24 by 24, so twice their size, on two columns; the fourth cell is empty.
    images = random_images(3, 1, 24, 24, levels=17)
    save_image_grid(images, tmp_path / "grid.png", columns=2, levels=17)

    expected = np.full((102, 102), 128)
    for index, (top, left) in enumerate([(2, 2), (2, 52), (52, 2)]):
        for y in range(48):
            for x in range(48):
                value = images[index, 0, y // 2, x // 2].item()
                expected[top + y, left + x] = round(value * 255 / 16)
    np.testing.assert_array_equal(read_png(tmp_path / "grid.png"), expected)


def test_colours_stay_with_their_pixels(tmp_path: Path) -> None:
    image = random_images(1, 3, 50, 60)
    save_image_grid(image, tmp_path / "grid.png")
    pixels = read_png(tmp_path / "grid.png")
    np.testing.assert_array_equal(pixels[2:-2, 2:-2], image[0].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("levels", [2, 3, 16, 17, 255, 256])
def test_values_are_spread_over_the_whole_range(tmp_path: Path, levels: int) -> None:
    path = tmp_path / "grid.png"
    ramp = torch.arange(levels, dtype=torch.uint8).reshape(1, 1, 1, levels)
    save_image_grid(ramp, path, levels=levels)
    pixels = read_png(path)[2, 2:-2:48]
    exact = np.arange(levels) * 255 / (levels - 1)
    assert np.abs(pixels - exact).max() <= 0.5
    assert (pixels[0], pixels[-1]) == (0, 255)


@pytest.mark.parametrize(
    ("count", "side", "size"),
    [
        (1, 8, (52, 52)),
        (4, 8, (102, 102)),  # 2 by 2, each 6 times its size
        (10, 28, (4 * 58 + 2, 3 * 58 + 2)),  # 4 by 3, each twice its size
        (16, 64, (4 * 66 + 2, 4 * 66 + 2)),  # as they are
    ],
)
def test_size_of_the_grid(tmp_path: Path, count: int, side: int, size: tuple[int, int]) -> None:
    save_image_grid(random_images(count, 1, side, side), tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as image:
        assert image.size == size


def test_pairs_show_each_input_above_its_reconstruction() -> None:
    inputs, reconstructions = random_images(5, 3, 8, 4), random_images(5, 3, 8, 4)
    pairs = pair_up(inputs, reconstructions)
    assert pairs.shape == (5, 3, 16, 4)
    assert torch.equal(pairs[:, :, :8], inputs)
    assert torch.equal(pairs[:, :, 8:], reconstructions)


def test_pairs_of_different_shapes_are_refused() -> None:
    with pytest.raises(InputError, match=r"\[2, 1, 8, 8\].*\[3, 1, 8, 8\]"):
        pair_up(random_images(3, 1, 8, 8), random_images(2, 1, 8, 8))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 1, 8, 8), "dtype torch.float32, expected torch.uint8"),
        (random_images(1, 8, 8), r"shape \[1, 8, 8\], expected \[N, 1 or 3, H, W\]"),
        (random_images(1, 2, 8, 8), r"shape \[1, 2, 8, 8\]"),
        (random_images(0, 1, 8, 8), r"shape \[0, 1, 8, 8\]"),
        (torch.full((1, 1, 8, 8), 17, dtype=torch.uint8), "reach 17, expected at most 16"),
    ],
)
def test_bad_images_are_refused_and_nothing_is_written(
    tmp_path: Path, images: Tensor, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        save_image_grid(images, tmp_path / "grid.png", levels=17)
    assert list(tmp_path.iterdir()) == []
