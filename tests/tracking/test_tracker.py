import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from tribin.tracking import MetricsFile, Tracker, save_image_grid
from tribin.tracking.wandb_run import SETTINGS

RECIPE = {"model": {"name": "resnet_vae", "width": 8}, "data": {"name": "digits"}, "seed": 3}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "digits_w1a1"
    folder.mkdir()
    return folder


def logged(history: list[dict[str, Any]], key: str) -> list[tuple[int, Any]]:
    return [(item["images_seen"], item[key]) for item in history if key in item]


def test_an_offline_run_holds_recipe_metrics_image_and_summary(
    run_dir: Path, read_wandb_run: Callable[..., list[Any]]
) -> None:
    grid = run_dir / "samples.png"
    save_image_grid(torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8), grid)
    with Tracker(
        run_dir,
        RECIPE,
        total_images=256,
        wandb_mode="offline",
        wandb_project="tribin",
        wandb_entity="team",
    ) as tracker:
        tracker.log(64, {"bits_per_dim": 3.25, "kl": 0.5})
        tracker.image("samples", 64, grid)
        tracker.log(128, {"bits_per_dim": 2.5, "kl": math.nan})
        tracker.finish({"bits_per_dim": 2.375, "images": 1797})

    (segment,) = read_wandb_run(run_dir)
    assert segment.config == RECIPE
    assert segment.run["run_id"] == tracker.wandb_run_id
    assert segment.run["project"] == "tribin"
    assert segment.run["entity"] == "team"
    assert segment.run["display_name"] == "digits_w1a1"
    assert logged(segment.history, "bits_per_dim") == [(64, 3.25), (128, 2.5)]
    assert logged(segment.history, "kl") == [(64, 0.5), (128, "NaN")]
    assert {"glob_name": "*", "step_metric": "images_seen"}.items() <= segment.metrics[1].items()
    assert segment.summary["bits_per_dim"] == 2.375
    assert segment.summary["images"] == 1797
    assert segment.exit_code == 0
    ((images_seen, media),) = logged(segment.history, "samples.path")
    assert images_seen == 64
    assert (segment.folder / "files" / media).read_bytes() == grid.read_bytes()
    assert json.loads((run_dir / "summary.json").read_text()) == {
        "bits_per_dim": 2.375,
        "images": 1797,
    }


def test_a_resumed_run_continues_its_metrics_and_its_wandb_run(
    run_dir: Path, read_wandb_run: Callable[..., list[Any]]
) -> None:
    with Tracker(run_dir, RECIPE, total_images=256, wandb_mode="offline") as first:
        for images in (64, 128, 192):
            first.log(images, {"bits_per_dim": 1 / images})
    with Tracker(
        run_dir,
        RECIPE,
        total_images=256,
        start_images=128,
        wandb_mode="offline",
        wandb_run_id=first.wandb_run_id,
        resume=True,
    ) as second:
        second.log(192, {"bits_per_dim": 1 / 192})
        second.finish({})

    before, after = read_wandb_run(run_dir)
    assert before.run["run_id"] == after.run["run_id"] == first.wandb_run_id
    assert second.wandb_run_id == first.wandb_run_id
    # What makes `wandb sync` append the second segment instead of replacing the first by it.
    assert ("resume" in before.run, after.run["resume"]) == (False, True)
    assert (before.exit_code, after.exit_code) == (1, 0)
    assert logged(after.history, "bits_per_dim") == [(192, 1 / 192)]
    records = MetricsFile(run_dir / "metrics.jsonl").read()
    assert [record["images_seen"] for record in records] == [64, 128, 192]


def test_online_without_a_key_runs_offline_and_never_asks(
    run_dir: Path,
    read_wandb_run: Callable[..., list[Any]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with Tracker(run_dir, RECIPE, total_images=256, wandb_mode="online") as tracker:
        tracker.log(64, {"bits_per_dim": 3.25})
    (segment,) = read_wandb_run(run_dir)
    assert logged(segment.history, "bits_per_dim") == [(64, 3.25)]
    first, *_ = capsys.readouterr().err.splitlines()
    assert "offline without an API key" in first
    assert f"wandb sync {run_dir}/wandb/offline-run-*" in first


def test_online_without_a_connection_runs_offline(
    run_dir: Path,
    read_wandb_run: Callable[..., list[Any]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setitem(SETTINGS, "init_timeout", 1.0)
    with Tracker(run_dir, RECIPE, total_images=256, wandb_mode="online") as tracker:
        tracker.log(64, {"bits_per_dim": 3.25})
    (segment,) = read_wandb_run(run_dir)
    assert segment.run["run_id"] == tracker.wandb_run_id
    assert logged(segment.history, "bits_per_dim") == [(64, 3.25)]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "offline after an error" in lines[0]


class BrokenWandb(ModuleType):
    """A wandb whose run fails in the named call."""

    def __init__(self, failing: str) -> None:
        super().__init__("wandb")
        self.settings = SimpleNamespace(wandb_dir="wandb")
        self.failing = failing
        self.calls: list[str] = []
        self.summary: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        def call(*_: Any, **__: Any) -> Any:
            self.calls.append(name)
            if name == self.failing:
                raise RuntimeError("the service is gone\nand more")
            return self

        return call


@pytest.mark.parametrize("failing", ["Settings", "init", "define_metric", "log", "Image", "finish"])
def test_a_failing_wandb_warns_once_and_the_run_goes_on(
    run_dir: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    failing: str,
) -> None:
    wandb = BrokenWandb(failing)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    with Tracker(run_dir, RECIPE, total_images=256, wandb_mode="offline") as tracker:
        for images in (64, 128):
            tracker.log(images, {"bits_per_dim": 3.25})
            tracker.image("samples", images, run_dir / "samples.png")
        tracker.finish({"bits_per_dim": 2.5})

    assert wandb.calls.count(failing) == 1
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert warnings[0].endswith("failed: the service is gone")
    assert len(list(MetricsFile(run_dir / "metrics.jsonl").read())) == 2
    assert (run_dir / "summary.json").exists()


def fail_after_one_report(run_dir: Path) -> None:
    with Tracker(run_dir, RECIPE, total_images=256, wandb_mode="offline") as tracker:
        tracker.log(64, {"bits_per_dim": 3.25})
        raise ZeroDivisionError


def test_an_error_passes_through_and_marks_the_wandb_run_failed(
    run_dir: Path, read_wandb_run: Callable[..., list[Any]]
) -> None:
    with pytest.raises(ZeroDivisionError):
        fail_after_one_report(run_dir)
    (segment,) = read_wandb_run(run_dir)
    assert segment.exit_code == 1
    assert logged(segment.history, "bits_per_dim") == [(64, 3.25)]


def test_disabled_does_not_import_wandb(run_dir: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tribin.tracking import Tracker\n"
        f"with Tracker(Path({str(run_dir)!r}), {{}}, total_images=256) as tracker:\n"
        "    tracker.log(64, {'bits_per_dim': 3.25}); tracker.finish({})\n"
        "assert len(tracker.wandb_run_id) == 8\n"
        "assert 'wandb' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert not (run_dir / "wandb").exists()
    assert (run_dir / "metrics.jsonl").read_text() == '{"images_seen": 64, "bits_per_dim": 3.25}\n'
