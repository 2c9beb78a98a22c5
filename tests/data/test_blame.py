"""Image sets with one fault: the message names the file, and the row in it."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet
from tests.image_files import pictures
from tests.runs import TINY, tribin

from tribin.data import load_images
from tribin.errors import InputError

SHAPE = (1, 6, 5)
FEATURES = datasets.Features({"img": datasets.Image()})


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


GOOD = [png(image) for image in pictures(4, *SHAPE)]


def write_shard(file: Path, images: list[bytes | None], path: str | None = None) -> None:
    rows = [None if image is None else {"bytes": image, "path": path} for image in images]
    datasets.Dataset.from_dict({"img": rows}, features=FEATURES).to_parquet(str(file))


def write_shards(folder: Path, third: list[bytes | None]) -> Path:
    """Three shards of train images, of which the second has none, and one of test images."""
    folder.mkdir(exist_ok=True)
    for index, images in enumerate(([*GOOD], [], third)):
        write_shard(folder / f"train-0000{index}-of-00003.parquet", list(images))
    write_shard(folder / "test-00000-of-00001.parquet", list(GOOD))
    return folder


def test_a_shard_without_rows_is_no_fault(tmp_path: Path) -> None:
    images = load_images("folder", write_shards(tmp_path / "data", [*GOOD]), SHAPE)
    assert len(images.train) == 8


def test_a_row_with_bytes_is_not_the_file_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_shards(tmp_path / "data", [*GOOD])
    write_shard(folder / "train-00002-of-00003.parquet", [b"not a picture"], path="0.png")
    (tmp_path / "0.png").write_bytes(GOOD[0])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"train-00002-of-00003.parquet, row 0\) cannot"):
        load_images("folder", folder, SHAPE)


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        (None, "is missing"),
        (b"", "cannot be decoded"),
        (b"not a picture", "cannot be decoded"),
        (GOOD[0][:-30], "cannot be decoded"),
        (GOOD[0][:40], "cannot be decoded"),
        (png(pictures(1, 1, 7, 5)[0]), "is 7×5 with mode L; .* needs 6×5 with mode L"),
        (png(pictures(1, 3, 6, 5)[0]), "is 6×5 with mode RGB; .* needs 6×5 with mode L"),
        (png(Image.new("RGBA", (5, 6))), "is 6×5 with mode RGBA; "),
        (png(Image.new("P", (5, 6))), "is 6×5 with mode P; "),
    ],
)
def test_the_row_of_a_bad_image_is_named(tmp_path: Path, bad: bytes | None, fault: str) -> None:
    folder = write_shards(tmp_path / "data", [GOOD[0], GOOD[1], bad, GOOD[2]])
    expected = rf"train image 6 \({folder}/train-00002-of-00003.parquet, row 2\) {fault}"
    with pytest.raises(InputError, match=expected):
        load_images("folder", folder, SHAPE)


def test_the_row_of_a_pixel_without_level_is_named(tmp_path: Path) -> None:
    dark = [png(Image.new("L", (5, 6), 3))] * 4
    for split, images in {
        "train": dark,
        "test": [*dark[:3], png(Image.new("L", (5, 6), 99))],
    }.items():
        write_shard(tmp_path / f"{split}.parquet", list(images))
    expected = r"data.levels: test image 3 \(.*/test.parquet, row 3\) holds the value 99, but 16 "
    with pytest.raises(InputError, match=expected):
        load_images("folder", tmp_path, SHAPE, 16)


def test_the_file_of_a_bad_image_in_a_folder_is_named(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for index, image in enumerate(GOOD):
            (tmp_path / split / f"{index}.png").write_bytes(image)
    (tmp_path / "test" / "2.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"test image 2 \(.*/test/2.png\) cannot be decoded"):
        load_images("folder", tmp_path, SHAPE)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


def overwrite(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[4:200] = bytes(196)
    file.write_bytes(content)


def rename_column(file: Path) -> None:
    parquet.write_table(parquet.read_table(file).rename_columns(["picture"]), file)


def drop_images(file: Path) -> None:
    parquet.write_table(pa.table({"label": [1, 2]}), file)


def write_text(file: Path) -> None:
    file.write_text("label,image\n")


@pytest.mark.parametrize("fault", [truncate, overwrite, rename_column, drop_images, write_text])
def test_a_bad_file_is_named(tmp_path: Path, fault: Callable[[Path], Any]) -> None:
    folder = write_shards(tmp_path / "data", [*GOOD])
    fault(folder / "train-00002-of-00003.parquet")
    with pytest.raises(InputError, match=f"{folder}/train-00002-of-00003.parquet"):
        load_images("folder", folder, SHAPE)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_are_noticed_or_give_an_image(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever happens to a picture's bytes, there is no other error than the one that names it."""
    content = bytearray(GOOD[1])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(content)))
    folder = write_shards(tmp_path / "data", [GOOD[0], bytes(content[:cut])])
    message = ""
    try:
        load_images("folder", folder, SHAPE)
    except InputError as error:
        message = str(error)
    assert message == "" or "train-00002-of-00003.parquet, row 1) " in message


def test_the_command_exits_with_2(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "data", [GOOD[0], b"not a picture"])
    overrides = ("data.name=folder", f"data.path={folder}", "data.image_shape=[1,6,5]")
    run_dir = tmp_path / "run"
    result = tribin("train", TINY, *overrides, "data.validation_images=2", "--run-dir", run_dir)
    assert result.exit_code == 2
    assert "train-00002-of-00003.parquet, row 1) cannot be decoded" in result.stderr
    assert not run_dir.exists()
