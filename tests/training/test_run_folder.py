"""The folder of a run: what is in it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.runs import tiny_recipe

from tribin.errors import InputError
from tribin.provenance import provenance
from tribin.recipe import load_recipe
from tribin.training.run_folder import RunFolder

CPU = torch.device("cpu")


def test_a_new_folder_holds_the_recipe_and_where_it_ran(tmp_path: Path) -> None:
    recipe = tiny_recipe("seed=7", "optimizer.learning_rate=2e-2")
    run = RunFolder.create(tmp_path / "new" / "run", recipe, CPU)
    assert sorted(path.name for path in run.path.iterdir()) == [
        "provenance.json",
        "recipe.yaml",
        "reconstructions",
        "samples",
    ]
    assert load_recipe(run.path / "recipe.yaml") == recipe
    assert RunFolder.open(run.path) == run
    record = json.loads((run.path / "provenance.json").read_text())
    assert record.keys() == provenance(CPU).keys()


def make_file(path: Path) -> Path:
    path.write_text("a file")
    return path


def make_broken_link(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("make", [make_file, Path.mkdir, make_broken_link])
def test_what_is_in_the_way_is_left_alone(tmp_path: Path, make: Callable[[Path], object]) -> None:
    path = tmp_path / "run"
    make(path)
    with pytest.raises(InputError, match="run exists; name another folder"):
        RunFolder.create(path, tiny_recipe(), CPU)
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    file = make_file(tmp_path / "file")
    with pytest.raises(InputError, match=r"file/run cannot be created: Not a directory"):
        RunFolder.create(file / "run", tiny_recipe(), CPU)
    assert file.read_text() == "a file"


def test_what_is_no_run(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing", make_file(tmp_path / "file")):
        with pytest.raises(InputError, match=f"{path} is no run folder: it holds no recipe.yaml"):
            RunFolder.open(path)


def test_a_run_without_a_checkpoint(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", tiny_recipe(), CPU)
    with pytest.raises(InputError, match="holds no checkpoint yet"):
        run.newest_checkpoint()


def test_provenance_that_was_lost_is_empty(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", tiny_recipe(), CPU)
    assert run.provenance()["torch"] == torch.__version__
    (run.path / "provenance.json").write_text("{")
    assert run.provenance() == {}
    (run.path / "provenance.json").unlink()
    assert run.provenance() == {}
