"""A trained model from a run's newest checkpoint, or from a packed file."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.runs import tiny_recipe

import tribin
from tribin.errors import InputError
from tribin.evaluation import evaluate
from tribin.trained_model import load_trained_model
from tribin.training.run_folder import RunFolder, build_model, load_data

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def packed_file(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The averaged weights of `trained_run`; to be read only."""
    trained = load_trained_model(trained_run, CPU)
    file = tmp_path_factory.mktemp("packed") / "tiny.safetensors"
    recipe = trained.recipe.model_dump(mode="json")
    tribin.save(trained.model, file, recipe=recipe, provenance=trained.provenance)
    return file


@pytest.mark.parametrize(
    ("asked", "given", "file"),
    [(None, "ema", "ema"), ("ema", "ema", "ema"), ("raw", "raw", "model")],
)
def test_the_model_of_the_newest_checkpoint(
    trained_run: Path, asked: str | None, given: str, file: str
) -> None:
    trained = load_trained_model(trained_run, CPU, asked)
    assert trained.weights == given
    assert trained.provenance["images_seen"] == 1600
    assert not trained.model.training
    path = trained_run / "checkpoints" / "1600" / f"{file}.safetensors"
    saved, state = load_file(path), trained.model.state_dict()
    assert state.keys() == saved.keys()
    assert all(torch.equal(state[name], value) for name, value in saved.items())
    assert trained.bytes_on_disk == path.stat().st_size


def test_averaged_weights_that_a_run_does_not_keep(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", tiny_recipe("training.ema_decay=null"), CPU)
    run.checkpoints.save(8, {"model": build_model(run.recipe).state_dict()}, {})
    run.checkpoints.wait()
    assert load_trained_model(run.path, CPU).weights == "raw"
    with pytest.raises(InputError, match=r"keeps no averaged weights \(training.ema_decay is null"):
        load_trained_model(run.path, CPU, "ema")


def test_a_packed_file_is_the_run_it_came_from(trained_run: Path, packed_file: Path) -> None:
    run, file = load_trained_model(trained_run, CPU), load_trained_model(packed_file, CPU)
    assert file.recipe == run.recipe
    assert file.provenance == run.provenance
    assert file.bytes_on_disk == packed_file.stat().st_size
    test = load_data(run.recipe).test
    assert file.evaluate(test) == run.evaluate(test)


def test_a_file_holds_one_kind_of_weights(packed_file: Path) -> None:
    assert load_trained_model(packed_file, CPU, "ema").weights == "ema"
    with pytest.raises(InputError, match="holds the ema weights, not the raw ones"):
        load_trained_model(packed_file, CPU, "raw")


def test_a_file_without_a_recipe(tmp_path: Path) -> None:
    tribin.save(build_model(tiny_recipe()), tmp_path / "bare.safetensors")
    with pytest.raises(InputError, match=r"bare\.safetensors holds no recipe"):
        load_trained_model(tmp_path / "bare.safetensors", CPU)


@pytest.mark.parametrize(
    "provenance", [None, {}, {"weights": "best", "images_seen": 1}, {"weights": "raw"}]
)
def test_a_file_that_does_not_say_which_weights(tmp_path: Path, provenance: object) -> None:
    recipe, file = tiny_recipe(), tmp_path / "tiny.safetensors"
    kept = recipe.model_dump(mode="json")
    tribin.save(build_model(recipe), file, recipe=kept, provenance=provenance)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="its provenance lacks weights or images_seen"):
        load_trained_model(file, CPU)


def test_evaluation_as_the_recipe_says_or_as_asked(trained_run: Path) -> None:
    trained = load_trained_model(trained_run, CPU)
    test, section = load_data(trained.recipe).test, trained.recipe.evaluation
    by_hand = evaluate(
        trained.model,
        test[: section.images],
        batch_size=section.batch_size,
        importance_samples=section.importance_samples,
        seed=trained.recipe.seed,
    )
    assert trained.evaluate(test) == by_hand
    other = trained.evaluate(test, images=9, batch_size=3, importance_samples=2)
    assert (other.images, other.importance_samples) == (9, 2)
