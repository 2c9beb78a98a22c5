"""``tribin train`` and ``tribin resume``: what a run leaves behind, and bad input."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from PIL import Image
from tests.image_files import pictures, write_parquet, write_pngs
from tests.runs import TINY, checkpoints, metrics, tiny_recipe, tribin, tribin_process

from tribin.models import Objective, ResNetVAE
from tribin.recipe import load_recipe
from tribin.tracking.wandb_run import SETTINGS

SHORT = ("training.images=40", "checkpoints.every_images=16", "samples.every_images=24")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def records(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in metrics(run_dir).splitlines()]


# What a run leaves behind


def test_the_folder_of_a_run(tmp_path: Path) -> None:
    run_dir = tmp_path / "deep" / "run"
    result = tribin("train", TINY, *SHORT, "evaluation.every_images=24", "--run-dir", run_dir)
    assert result.exit_code == 0
    files = {str(path.relative_to(run_dir)) for path in run_dir.rglob("*") if path.is_file()}
    assert files == {
        "recipe.yaml", "provenance.json", "metrics.jsonl", "summary.json", "samples.png",
        "test_bits.safetensors",
        "samples/24.png", "samples/40.png", "reconstructions/24.png", "reconstructions/40.png",
        "checkpoints/latest",
    } | {
        f"checkpoints/{images}/{file}"
        for images in (16, 32, 40)
        for file in (
            "manifest.json", "model.safetensors", "optimizer.safetensors", "ema.safetensors",
        )
    }  # fmt: skip
    recipe = tiny_recipe(*SHORT, "evaluation.every_images=24")
    assert load_recipe(run_dir / "recipe.yaml") == recipe

    summary = json.loads((run_dir / "summary.json").read_text())
    assert list(summary) == [
        "bits_per_dim", "standard_error", "images", "importance_samples", "weights", "half",
        "images_seen", "parameters", "binary_parameters", "float_bytes", "packed_bytes",
        "data", "device",
    ]  # fmt: skip
    assert (summary["images"], summary["images_seen"], summary["weights"]) == (32, 40, "ema")
    assert summary["data"] == "digits (embedded): 1,460 train, 40 validation, 297 test"

    # 4 images of 8x8, enlarged 6 times, in 2 rows with lines of 2 pixels.
    with Image.open(run_dir / "samples.png") as grid:
        assert grid.size == (102, 102)
    assert (run_dir / "samples.png").read_bytes() == (run_dir / "samples/40.png").read_bytes()


def test_the_summary_on_the_terminal(tmp_path: Path) -> None:
    result = tribin("train", TINY, *SHORT, "--run-dir", "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    rows = dict(re.split("  +", line, maxsplit=1) for line in result.stdout.splitlines())
    share = summary["binary_parameters"] / summary["parameters"]
    bits, error = f"{summary['bits_per_dim']:.4f}", f"{summary['standard_error']:.4f}"
    assert rows == {
        "test bits/dim": f"{bits} ± {error} (32 images, ema weights, 1 sample)",
        "parameters": f"{summary['parameters']:,}, {share:.2%} of them binary",
        "float32 size": f"{summary['float_bytes']:,} bytes",
        "packed size": f"{summary['packed_bytes']:,} bytes "
        f"(−{1 - summary['packed_bytes'] / summary['float_bytes']:.1%})",
        "samples": "run/samples.png",
        "folder": "run",
    }
    assert "40/40 images  100.0%" in result.stderr


def test_the_summary_as_json(tmp_path: Path) -> None:
    result = tribin("train", TINY, *SHORT, "--run-dir", "run", "--json")
    assert json.loads(result.stdout) == json.loads((tmp_path / "run/summary.json").read_text())
    again = tribin("resume", "run", "--json")
    assert json.loads(again.stdout) == json.loads(result.stdout)


def test_the_default_folder_has_the_recipes_name_and_the_time(tmp_path: Path) -> None:
    small = ("model.width=4", "model.latent_layers=1", "evaluation.images=8", "samples.count=1")
    settings = (*small, "training.images=8", "training.batch_size=8")
    result = tribin("train", "resnet_vae/digits_w1a1", *settings)
    assert result.exit_code == 0
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"digits_w1a1-\d{8}-\d{6}", run_dir.name)
    assert result.stdout.endswith(f"folder         runs/{run_dir.name}\n")


# Weights & Biases


def test_an_offline_wandb_run_holds_what_the_folder_holds(
    tmp_path: Path, read_wandb_run: Callable[[Path], list[Any]]
) -> None:
    run_dir = tmp_path / "digits"
    settings = (*SHORT, "evaluation.every_images=24", "tracking.wandb=offline")
    assert tribin("train", TINY, *settings, "--run-dir", run_dir).exit_code == 0
    (segment,) = read_wandb_run(run_dir)
    assert segment.config == load_recipe(run_dir / "recipe.yaml").model_dump(mode="json")
    assert segment.config["model"]["precision"].items() >= {"weights": 1, "activations": 1}.items()
    assert segment.run["display_name"] == "digits"

    reported = [item for item in segment.history if "images_per_second" in item]
    assert [without_wall_clock(item) for item in reported] == records(run_dir)
    for key in ("samples", "reconstructions"):
        grids = {
            item["images_seen"]: segment.folder / "files" / item[f"{key}.path"]
            for item in segment.history
            if f"{key}.path" in item
        }
        assert list(grids) == [24, 40]
        for images_seen, file in grids.items():
            assert file.read_bytes() == (run_dir / key / f"{images_seen}.png").read_bytes()

    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary.items() <= segment.summary.items()
    manifest = json.loads((run_dir / "checkpoints" / "40" / "manifest.json").read_text())
    assert manifest["wandb_run_id"] == segment.run["run_id"]
    assert segment.exit_code == 0


def without_wall_clock(item: dict[str, Any]) -> dict[str, Any]:
    """Leave out the speed, and what W&B adds of its own (_step, _runtime, _timestamp)."""
    return {
        key: value
        for key, value in item.items()
        if key != "images_per_second" and not key.startswith("_")
    }


def test_wandb_online_without_network_never_stops_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_wandb_run: Callable[[Path], list[Any]]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setitem(SETTINGS, "init_timeout", 1.0)
    result = tribin("train", TINY, *SHORT, "tracking.wandb=online", "--run-dir", "run")
    assert result.exit_code == 0
    assert "W&B is offline after an error" in result.stderr
    (segment,) = read_wandb_run(tmp_path / "run")
    last = records(tmp_path / "run")[-1]
    assert segment.summary["loss"] == last["loss"]
    assert (tmp_path / "run" / "summary.json").exists()


# Other data


@pytest.mark.parametrize("write", [write_pngs, write_parquet])
def test_a_folder_of_colour_images_trains(tmp_path: Path, write: Callable[..., Path]) -> None:
    write(tmp_path / "mine", train=pictures(64, 3, 10, 6), test=pictures(10, 3, 10, 6, seed=1))
    settings = (
        "data.name=folder", "data.path=mine", "data.image_shape=[3, 10, 6]",
        "data.validation_images=14", "evaluation.every_images=80", "evaluation.images=null",
        "training.images=160",
    )  # fmt: skip
    result = tribin("train", TINY, *settings, "--run-dir", "run")
    assert result.exit_code == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["data"] == "folder (mine): 50 train, 14 validation, 10 test"
    assert summary["images"] == 10
    # Noise that is uniform over 256 values has 8 bits/dim, and no model can do better.
    assert 7.9 < summary["bits_per_dim"] < 12
    evaluated = json.loads(tribin("evaluate", "run", "--json").stdout)
    assert evaluated["bits_per_dim"] == summary["bits_per_dim"]


def test_the_cifar10_recipe_trains_on_a_folder_of_parquet_files(tmp_path: Path) -> None:
    write_parquet(tmp_path / "cifar", train=pictures(20, 3, 32, 32), test=pictures(4, 3, 32, 32))
    settings = ("model.width=4", "model.latent_layers=2", "model.extra_blocks=1", "samples.count=1")
    training = ("training.images=8", "training.batch_size=4", "data.path=cifar")
    result = tribin(
        "train", "resnet_vae/cifar10_w1a1", *settings, *training, "--run-dir", "run", "--json"
    )
    assert result.exit_code == 0
    assert json.loads(result.stdout)["data"] == "cifar10 (cifar): 20 train, 0 validation, 4 test"


# Bad input


def assert_bad_input(result: Result, message: str) -> None:
    """One message, the last line, and exit code 2; what is above it is progress of reading."""
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.count("tribin: ") == 1
    found = result.stderr[result.stderr.index("tribin: ") :]
    assert message in found
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "no recipe 'nothing'"),
        (["resnet_vae/digits_w1a"], "did you mean"),
        ([TINY, "optimizer.learning_rat=1"], "did you mean learning_rate?"),
        ([TINY, "optimizer.learning_rate=fast"], "'fast' is not a number"),
        ([TINY, "data.name=folder", "data.path=."], "data.image_shape: missing"),
        ([TINY, "data.image_shape=[3, 8, 8]"], "data.image_shape"),
        ([TINY, "data.name=cifar10", "data.path=missing"], "there is no folder 'missing'"),
        ([TINY, "data.name=cifar10"], "is not cached on this machine"),
        ([TINY, "data.validation_images=1500"], "1,500 cannot be cut from 1,500 train images"),
    ],
)
def test_bad_recipes_and_missing_data(
    tmp_path: Path, arguments: list[object], message: str
) -> None:
    assert_bad_input(tribin("train", *arguments, "--run-dir", "run"), message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("images", "settings", "message"),
    [
        ({}, ["data.image_shape=[1, 8, 8]"], "data.path: 'mine' cannot be read"),
        (
            {"train": pictures(3, 1, 8, 6), "test": pictures(2, 1, 8, 6)},
            ["data.image_shape=[1, 8, 8]"],
            "train/0000.png) is 8×6 with mode L; data.image_shape [1, 8, 8] needs 8×8",
        ),
        (
            {"train": pictures(3, 1, 8, 8), "test": pictures(2, 3, 8, 8)},
            ["data.image_shape=[1, 8, 8]"],
            "test/0000.png) is 8×8 with mode RGB",
        ),
        (
            {"train": pictures(3, 1, 8, 8, levels=16), "test": pictures(9, 1, 8, 8)},
            ["data.image_shape=[1, 8, 8]", "data.levels=16"],
            "but 16 levels end at 15",
        ),
        (
            {"train": pictures(3, 1, 7, 8), "test": pictures(2, 1, 7, 8)},
            ["data.image_shape=[1, 7, 8]"],
            "height and width must be even, not 7x8",
        ),
    ],
    ids=["empty", "size", "mode", "levels", "odd"],
)
def test_bad_images(
    tmp_path: Path, images: dict[str, list[Image.Image]], settings: list[str], message: str
) -> None:
    (tmp_path / "mine").mkdir()
    write_pngs(tmp_path / "mine", **images)
    recipe = ("data.name=folder", "data.path=mine", "data.validation_images=0", *settings)
    assert_bad_input(tribin("train", TINY, *recipe, "--run-dir", "run"), message)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_run_folder_that_exists(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    result = tribin("train", TINY, "--run-dir", "run")
    assert_bad_input(result, "run exists; name another folder with --run-dir")
    assert "`tribin resume run`" in result.stderr
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("name", ["file/run", "x" * 300])
def test_a_run_folder_that_cannot_be_made(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("in the way")
    assert_bad_input(tribin("train", TINY, "--run-dir", name), f"{name} cannot be created: ")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["missing", "file", "folder", "resnet_vae/digits_w1a1", "x" * 300])
def test_what_is_no_run(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("no run")
    (tmp_path / "folder").mkdir()
    assert_bad_input(tribin("resume", name), f"{name} is no run folder: it holds no recipe.yaml")
    assert {path.name for path in tmp_path.rglob("*")} == {"file", "folder"}


@pytest.mark.parametrize("command", ["evaluate", "sample"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "missing is neither a run folder nor a packed file"),
        ("resnet_vae/digits_w1a1", "digits_w1a1 is neither a run folder nor a packed file"),
        ("x" * 300, "x is neither a run folder nor a packed file"),
        ("folder", "folder is no run folder: it holds no recipe.yaml"),
        ("file", "file: this is not a safetensors file"),
    ],
)
def test_what_is_no_trained_model(tmp_path: Path, command: str, name: str, message: str) -> None:
    (tmp_path / "file").write_text("no safetensors either")
    (tmp_path / "folder").mkdir()
    assert_bad_input(tribin(command, name), message)
    assert {path.name for path in tmp_path.rglob("*")} == {"file", "folder"}


@pytest.mark.parametrize("command", ["resume", "evaluate", "sample"])
def test_a_run_whose_recipe_was_damaged(tmp_path: Path, command: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("model: {name: resnet_vae, widht: 8}\n")
    assert_bad_input(tribin(command, "run"), "did you mean width?")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["recipe.yaml"]


# Processes


def test_bad_input_in_a_process_of_its_own(tmp_path: Path) -> None:
    result = tribin_process("train", TINY, "training.image=5", "--run-dir", tmp_path / "run")
    assert (result.returncode, result.stdout) == (2, "")
    expected = "tribin: .*tiny.yaml has 1 fault:\n.*training.image: unknown key; did you mean .*\n"
    assert re.fullmatch(expected, result.stderr)
    assert list(tmp_path.iterdir()) == []


DIVERGING = ("optimizer.learning_rate=1e30", "optimizer.warmup_images=0")


def test_a_run_that_diverges_exits_with_3(tmp_path: Path) -> None:
    result = tribin_process("train", TINY, *DIVERGING, "--run-dir", tmp_path / "run")
    assert (result.returncode, result.stdout) == (3, "")
    assert "Traceback" not in result.stderr
    message = result.stderr.splitlines()[-1]
    assert re.fullmatch(
        r"tribin: loss \S+, gradient norm \S+ after \d+ images: stopped before the update "
        r"\(--debug-non-finite names the layer\)",
        message,
    )
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_run_that_diverges_names_the_layer_where_asked() -> None:
    result = tribin("train", TINY, *DIVERGING, "--run-dir", "run", "--debug-non-finite")
    assert (result.exit_code, result.stdout) == (3, "")
    message = result.stderr.splitlines()[-1]
    assert re.search(r"stopped before the update; first not finite is the \w+", message)


def test_the_guard_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, seen = ResNetVAE.forward, 0

    def poisoned(model: ResNetVAE, images: torch.Tensor) -> Objective:
        nonlocal seen
        seen += len(images) if model.training else 0
        objective = forward(model, images)
        loss = objective.loss * torch.nan if seen > 24 else objective.loss
        return Objective(loss, objective.metrics)

    monkeypatch.setattr(ResNetVAE, "forward", poisoned)
    result = tribin("train", TINY, *SHORT, "--run-dir", "run")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "after 32 images: stopped before the update" in result.stderr.splitlines()[-1]
    assert checkpoints(tmp_path / "run") == [16]

    again = tribin("resume", "run", "--debug-non-finite")
    assert (again.exit_code, again.stdout) == (3, "")
    message = again.stderr.splitlines()[-1]
    assert message.endswith("stopped before the update; first not finite is the loss of ResNetVAE")
