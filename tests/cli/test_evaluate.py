"""``tribin evaluate``: the bits per dimension of a run."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs import TINY, tribin

from tribin.models import ResNetVAE


def evaluate(run_dir: Path, *options: object) -> dict[str, Any]:
    result = tribin("evaluate", run_dir, "--json", *options)
    assert result.exit_code == 0
    return json.loads(result.stdout)


def test_json(trained_run: Path) -> None:
    result = evaluate(trained_run)
    assert list(result) == [
        "bits_per_dim", "standard_error", "images", "importance_samples", "weights",
    ]  # fmt: skip
    summary = json.loads((trained_run / "summary.json").read_text())
    assert result == {name: summary[name] for name in result}
    assert evaluate(trained_run) == result


def test_text(trained_run: Path) -> None:
    options = ("--images", 50, "--importance-samples", 3)
    result, found = tribin("evaluate", trained_run, *options), evaluate(trained_run, *options)
    assert result.stdout.splitlines() == [
        f"test bits/dim  {found['bits_per_dim']:.4f} ± {found['standard_error']:.4f} "
        "(IW-3, 50 images, ema weights)",
        "data           digits (embedded): 1,460 train, 40 validation, 297 test",
    ]
    assert "(ELBO, 32 images, ema weights)" in tribin("evaluate", trained_run).stdout


def test_options_replace_the_recipes(trained_run: Path) -> None:
    assert evaluate(trained_run, "--images", 999)["images"] == 297
    raw = evaluate(trained_run, "--weights", "raw")
    assert raw["weights"] == "raw"
    assert raw["bits_per_dim"] != evaluate(trained_run, "--weights", "ema")["bits_per_dim"]
    assert evaluate(trained_run, "--importance-samples", 8)["importance_samples"] == 8
    # Other batches have other noise.
    other = evaluate(trained_run, "--batch-size", 5)
    assert other["images"] == 32
    assert other["bits_per_dim"] != evaluate(trained_run)["bits_per_dim"]


def test_it_changes_nothing(trained_run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained_run.rglob("*")}
    evaluate(trained_run)
    assert before == {path: path.stat().st_mtime_ns for path in trained_run.rglob("*")}


def test_a_density_that_is_not_finite(trained_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log_weight = ResNetVAE.log_weight

    def broken(model: ResNetVAE, images: torch.Tensor) -> torch.Tensor:
        weights = log_weight(model, images)
        weights[5] = math.nan
        return weights

    monkeypatch.setattr(ResNetVAE, "log_weight", broken)
    result = tribin("evaluate", trained_run)
    assert (result.exit_code, result.stdout) == (3, "")
    message = (
        "the density of 2 of 32 images is not finite, the first of them image 5 (nan bits/dim)"
    )
    assert result.stderr == f"tribin: {message}\n"


def test_no_averaged_weights(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    settings = ("training.images=8", "training.ema_decay=null")
    assert tribin("train", TINY, *settings, "--run-dir", run_dir).exit_code == 0
    for command in ("evaluate", "sample"):
        result = tribin(command, run_dir, "--weights", "ema")
        assert (result.exit_code, result.stdout) == (2, "")
        assert re.fullmatch("tribin: .* keeps no averaged weights .*\n", result.stderr)
    assert evaluate(run_dir)["weights"] == "raw"


@pytest.mark.parametrize(
    "options",
    [("--importance-samples", 0), ("--images", 1), ("--batch-size", 0), ("--weights", "best")],
)
def test_bad_options(trained_run: Path, options: tuple[object, ...]) -> None:
    result = tribin("evaluate", trained_run, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"Invalid value for '{options[0]}'" in result.stderr
