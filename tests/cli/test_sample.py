"""``tribin sample``: a grid of images from a run."""

import json
from pathlib import Path

import pytest
from PIL import Image
from tests.runs import FLOWPP, tiny_recipe, tribin

from tribin.data import load_images
from tribin.tracking import save_image_grid
from tribin.training.trainer import train


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def trained_flow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run of a Flow++; to be read only."""
    run_dir = tmp_path_factory.mktemp("runs") / "flow"
    train(tiny_recipe(FLOWPP, "training.images=16"), run_dir)
    return run_dir


def sample(run_dir: Path, output: str, *options: object) -> bytes:
    assert tribin("sample", run_dir, "-o", output, *options).exit_code == 0
    return Path(output).read_bytes()


def test_a_grid_of_so_many_images(trained_run: Path, tmp_path: Path) -> None:
    result = tribin("sample", trained_run, "--count", 9)
    assert result.stdout == "samples.png: 9 images, temperature 1, ema weights\n"
    assert [path.name for path in tmp_path.iterdir()] == ["samples.png"]
    # 8x8 pixels enlarged 6 times, three in a row, with lines of 2 pixels.
    with Image.open(tmp_path / "samples.png") as grid:
        assert grid.size == (3 * 50 + 2, 3 * 50 + 2)


def test_json(trained_run: Path) -> None:
    result = tribin("sample", trained_run, "--json", "--temperature", 0.5, "--weights", "raw")
    assert json.loads(result.stdout) == {
        "file": "samples.png",
        "count": 4,
        "temperature": 0.5,
        "weights": "raw",
    }


def test_the_seed_decides(trained_run: Path) -> None:
    first = sample(trained_run, "a.png", "--seed", 1)
    assert sample(trained_run, "b.png", "--seed", 1) == first
    assert sample(trained_run, "c.png", "--seed", 2) != first
    assert sample(trained_run, "d.png", "--seed", 1, "--temperature", 0.5) != first
    assert sample(trained_run, "e.png", "--seed", 1, "--weights", "raw") != first


def test_the_recipes_seed_gives_the_grid_of_the_run(trained_run: Path) -> None:
    assert sample(trained_run, "a.png") == (trained_run / "samples.png").read_bytes()


def test_no_noise_at_temperature_0(trained_run: Path) -> None:
    assert sample(trained_run, "a.png", "--temperature", 0, "--seed", 1) == sample(
        trained_run, "b.png", "--temperature", 0, "--seed", 2
    )


@pytest.mark.parametrize("output", ["missing/samples.png", "file/samples.png", "folder"])
def test_an_output_that_cannot_be_written(trained_run: Path, tmp_path: Path, output: str) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    result = tribin("sample", trained_run, "-o", output)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"tribin: {output} cannot be written: ")
    assert result.stderr.count("\n") == 1
    assert {path.name for path in tmp_path.rglob("*")} == {"file", "folder"}


@pytest.mark.parametrize("options", [("--count", 0), ("--temperature", -1), ("--seed", -1)])
def test_bad_options(trained_run: Path, tmp_path: Path, options: tuple[object, ...]) -> None:
    result = tribin("sample", trained_run, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"Invalid value for '{options[0]}'" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_interpolations_are_rows_from_one_test_image_to_the_next(
    trained_flow: Path, tmp_path: Path
) -> None:
    result = tribin("sample", trained_flow, "--interpolate", 2, "--count", 6)
    assert result.stdout == "samples.png: 6 images, interpolate 2, ema weights\n"
    save_image_grid(load_images("digits").test[:6], tmp_path / "ends.png", columns=2, levels=17)
    assert Path("samples.png").read_bytes() == Path("ends.png").read_bytes()
    longer = json.loads(tribin("sample", trained_flow, "--interpolate", 5, "--json").stdout)
    # The recipe's count is 4: one row at least.
    assert longer == {"file": "samples.png", "count": 5, "interpolate": 5, "weights": "ema"}


def test_a_model_that_does_not_interpolate(trained_run: Path, tmp_path: Path) -> None:
    result = tribin("sample", trained_run, "--interpolate", 5)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "tribin: ResNetVAE does not interpolate between images\n"
    assert list(tmp_path.iterdir()) == []


def test_interpolations_have_no_temperature(trained_flow: Path) -> None:
    result = tribin("sample", trained_flow, "--interpolate", 5, "--temperature", 1)
    assert result.exit_code == 2
    assert "exclude each other" in result.stderr
