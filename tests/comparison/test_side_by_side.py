"""Which models are compared, and on what; each is measured in this process to save time."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tests.image_files import pictures, write_pngs
from tests.runs import tribin

from tribin.comparison import side_by_side as comparison
from tribin.comparison.measurement import Settings, measure
from tribin.comparison.side_by_side import compare
from tribin.errors import InputError
from tribin.provenance import device_name


@pytest.fixture(autouse=True)
def measured_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "_measure_apart", measure)


def with_recipe(run: Path, folder: Path, old: str, new: str) -> Path:
    """A copy of a run whose recipe has some line changed."""
    shutil.copytree(run, folder)
    recipe = folder / "recipe.yaml"
    text = recipe.read_text()
    assert old in text
    recipe.write_text(text.replace(old, new, 1))
    return folder


def bits_per_dim(source: Path, *options: object) -> float:
    return json.loads(tribin("evaluate", source, "--json", *options).stdout)["bits_per_dim"]


def test_a_run_and_its_packed_file(trained_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    assert tribin("export", trained_run, "-o", file, "--no-evaluate").exit_code == 0
    result = compare([trained_run, file])
    assert result.data == "digits (embedded): 1,460 train, 40 validation, 297 test"
    assert result.settings == Settings(images=32, batch_size=16, importance_samples=1, seed=0)
    assert result.provenance["device"] == device_name(torch.device("cpu"))
    assert [model.source for model in result.models] == [str(trained_run), str(file)]
    for model in result.models:
        assert model.bits_per_dim == bits_per_dim(Path(model.source))
    sizes = [model.bytes_on_disk for model in result.models]
    assert sizes[1] == file.stat().st_size < sizes[0]


def test_options_replace_the_recipes(trained_run: Path) -> None:
    [model] = compare([trained_run], images=20, batch_size=7, importance_samples=3).models
    options = ("--images", 20, "--batch-size", 7, "--importance-samples", 3)
    assert model.bits_per_dim == bits_per_dim(trained_run, *options)
    assert compare([trained_run], images=999, batch_size=300).settings.images == 297


def test_the_noise_is_that_of_the_first_ones_seed(trained_run: Path, tmp_path: Path) -> None:
    other = with_recipe(trained_run, tmp_path / "other", "seed: 0", "seed: 8")
    result = compare([other, trained_run])
    assert result.settings.seed == 8
    first, second = (model.bits_per_dim for model in result.models)
    assert first == second == bits_per_dim(other) != bits_per_dim(trained_run)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("images: 32", "images: null", "evaluation.images is 32 and null; --images sets it"),
        ("  images: 32\n  batch_size: 16", "  images: 32\n  batch_size: 5",
         "evaluation.batch_size is 16 and 5; --batch-size sets it"),
        ("importance_samples: 1", "importance_samples: 9",
         "evaluation.importance_samples is 1 and 9; --importance-samples sets it"),
        ("path: null", "path: here", 'data.path is null and "here"; --data sets it'),
        ("name: digits\n  path: null\n  image_shape: null\n  levels: null",
         "name: folder\n  path: null\n  image_shape: [1, 8, 8]\n  levels: 17",
         'data.name is "digits" and "folder"; it must be the same'),
    ],
)  # fmt: skip
def test_recipes_that_differ(
    trained_run: Path, tmp_path: Path, old: str, new: str, fault: str
) -> None:
    other = with_recipe(trained_run, tmp_path / "other", old, new)
    with pytest.raises(InputError) as caught:
        compare([trained_run, trained_run, other])
    expected = f"{trained_run} and {other} are not measured alike: {fault}"
    assert str(caught.value).startswith(expected)


def test_other_folders_may_hold_the_same_images(trained_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    train, test = (pictures(6, 1, 8, 8, levels=17, seed=seed) for seed in (0, 1))
    write_pngs(folder, train=train, test=test)
    data = "name: digits\n  path: null\n  image_shape: null\n  levels: null\n"
    found = f"name: folder\n  path: {folder}\n  image_shape: [1, 8, 8]\n  levels: 17\n"
    lost = found.replace(str(folder), "lost")
    recipes = [found, lost]
    sources = [
        with_recipe(
            trained_run,
            tmp_path / str(index),
            f"{data}  validation_images: 40",
            f"{recipe}  validation_images: 0",
        )
        for index, recipe in enumerate(recipes)
    ]
    result = compare(sources, data_path=folder)
    assert result.settings.images == 6
    assert result.models[0].bits_per_dim == result.models[1].bits_per_dim
    assert result.models[0].bits_per_dim == bits_per_dim(sources[0])


def test_all_are_checked_before_one_is_measured(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(comparison, "_measure_apart")
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"\0" * 200)
    for source in (file, tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match=str(source)):
            compare([trained_run, source])
