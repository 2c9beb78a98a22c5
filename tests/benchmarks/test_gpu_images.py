"""The file of images: made from a folder, read back, and refused where it is something else."""

from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.gpu.images import read_images, write_images
from PIL import Image

from tribin.errors import InputError


def saved(folder: Path, value: Any) -> Path:
    torch.save(value, folder / "images.pt")
    return folder / "images.pt"


def noise(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)


@pytest.mark.parametrize(("count", "held_out"), [(16, 2), (80, 10), (9000, 1000)])
def test_the_last_images_are_held_out(tmp_path: Path, count: int, held_out: int) -> None:
    images = noise(count)
    train, rest, name = read_images(saved(tmp_path, images))
    assert (len(rest), name) == (held_out, "held-out images")
    assert torch.equal(torch.cat([train, rest]), images)


def test_a_test_file_takes_the_place_of_the_images_held_out(tmp_path: Path) -> None:
    images, test = noise(80), noise(16)
    file = tmp_path / "test.pt"
    torch.save(test, file)
    train, others, name = read_images(saved(tmp_path, images), file)
    assert torch.equal(train, images[:70])  # as without it
    assert torch.equal(others, test)
    assert name == "test images"
    torch.save(test.float(), file)
    with pytest.raises(InputError, match=r"--test: .* holds float32"):
        read_images(saved(tmp_path, images), file)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (noise(15), "holds uint8 [15, 3, 32, 32], not uint8 [N, 3, 32, 32] with at least 16"),
        (noise(16).float(), "holds float32 [16, 3, 32, 32], not"),
        (noise(16)[:, :1], "holds uint8 [16, 1, 32, 32], not"),
        (torch.tensor(3), "holds int64 [], not"),
        ({"images": noise(16)}, "holds a dict, not"),
    ],
)
def test_another_value_is_one_clear_error(tmp_path: Path, value: Any, fault: str) -> None:
    with pytest.raises(InputError) as error:
        read_images(saved(tmp_path, value))
    assert fault in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"no tensor", b"PK\x03\x04 no archive"])
def test_another_file_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "images.pt"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"holds no tensor saved by torch\.save"):
        read_images(file)


def test_a_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_images(tmp_path / "images.pt")


@pytest.fixture
def folder(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A folder of images, and the images by split."""
    splits = {"train": noise(24), "test": noise(17)}
    for split, images in splits.items():
        (tmp_path / "images" / split).mkdir(parents=True)
        for number, image in enumerate(images):
            pixels = image.permute(1, 2, 0).contiguous().numpy()
            Image.fromarray(pixels).save(tmp_path / "images" / split / f"{number:02}.png")
    return tmp_path / "images", splits


def test_a_folder_of_images_becomes_a_file(
    tmp_path: Path, folder: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    source, splits = folder
    file = tmp_path / "images.pt"
    assert write_images(str(source), file, count=20) == 20
    written = torch.load(file)
    known = {image.numpy().tobytes() for image in splits["train"]}
    assert {image.numpy().tobytes() for image in written} <= known
    assert len(written.flatten(1).unique(dim=0)) == 20
    assert file.stat().st_size < 21 * 3 * 32 * 32  # none of those left out


@pytest.mark.parametrize("count", [None, 16])
def test_test_images_are_in_their_order(
    tmp_path: Path, folder: tuple[Path, dict[str, torch.Tensor]], count: int | None
) -> None:
    source, splits = folder
    file = tmp_path / "test.pt"
    write_images(str(source), file, count, "test")
    assert torch.equal(torch.load(file), splits["test"][:count])


def test_what_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'none' is neither a folder nor one of digits, cifar10"):
        write_images("none", tmp_path / "images.pt")
    with pytest.raises(InputError, match=r"^digits gives uint8 \[1500, 1, 8, 8\], not uint8"):
        write_images("digits", tmp_path / "images.pt")
    assert list(tmp_path.iterdir()) == []
