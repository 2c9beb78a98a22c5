from pathlib import Path

import datasets
import pytest

from tribin.data import load_images
from tribin.data.splits import open_splits
from tribin.errors import InputError


def pretend_loaded(monkeypatch: pytest.MonkeyPatch, **images: int) -> None:
    """Let ``load_dataset`` find splits with that many (tiny) rows."""
    splits = {
        name: datasets.Dataset.from_dict({"label": [0] * count}) for name, count in images.items()
    }
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: splits)


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist", "imagenet32_repack"])
def test_offline_and_not_cached(name: str) -> None:
    with pytest.raises(InputError, match="not cached") as caught:
        load_images(name)
    message = str(caught.value)
    assert message.startswith(f"data.name {name!r}: ")
    assert "run once with network access" in message
    assert "data.path=FOLDER" in message


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("no route"),
        RuntimeError("no route"),
        datasets.exceptions.DatasetNotFoundError("no route"),
    ],
)
def test_every_way_the_hub_fails(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(InputError, match=r"uoft-cs/cifar10 is not cached .*no route.* data.path"):
        open_splits("cifar10", None)


@pytest.mark.parametrize("name", ["imagenet32", "imagenet32_old", "folder"])
def test_sets_that_need_a_path(name: str) -> None:
    with pytest.raises(InputError, match=f"data.path: missing; data.name '{name}'"):
        open_splits(name, None)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data.path: there is no folder .*absent"):
        open_splits("cifar10", tmp_path / "absent")


def test_a_path_too_long_for_a_file() -> None:
    with pytest.raises(InputError, match=r"data.path: there is no folder 'xxxx"):
        open_splits("cifar10", "x" * 5000)


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data.path: .* cannot be read .*expected are train-"):
        open_splits("cifar10", tmp_path)


def test_broken_parquet_file(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(InputError, match=r"data.path: .* cannot be read .*expected are train-"):
        open_splits("cifar10", tmp_path)


def test_no_test_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_loaded(monkeypatch, train=3)
    with pytest.raises(InputError, match="no test or validation images, only the splits train"):
        open_splits("cifar10", tmp_path)


def test_imagenet_is_tested_on_its_validation_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_loaded(monkeypatch, train=1_281_167, validation=50_000, test=100_000)
    assert len(open_splits("imagenet32", tmp_path).test) == 50_000


@pytest.mark.parametrize(
    ("name", "counts", "message"),
    [
        ("imagenet32", (1_281_149, 49_999), "49,999 test images; these .* 'imagenet32_old' .*OLD"),
        ("imagenet32_old", (1_281_167, 50_000), "50,000 test images; these .* 'imagenet32' .*NEW"),
        ("imagenet32", (10, 5), "found 10 train and 5 test images; results on different versions"),
    ],
)
def test_the_wrong_version_of_imagenet(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    counts: tuple[int, int],
    message: str,
) -> None:
    pretend_loaded(monkeypatch, train=counts[0], test=counts[1])
    with pytest.raises(InputError, match=message):
        open_splits(name, tmp_path)
