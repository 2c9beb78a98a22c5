"""What the finished runs of a study give, row by row."""

import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tribin.study.plan import PlannedRun, Study
from tribin.study.runner import is_finished, run_folder
from tribin.training.trainer import TEST_BITS


@dataclass(frozen=True)
class Difference:
    """A row's bits/dim less its baseline's, with the same seeds and on the same images.

    Attributes:
        baseline: the other row.
        mean: over images and seeds.
        standard_error: of it, over the images, each with its mean over the seeds.
        p: probability of a mean as far from 0 if there were no difference (two-sided, normal).
        by_seed: the mean over the images, for each seed.
    """

    baseline: str
    mean: float
    standard_error: float
    p: float
    by_seed: list[float]


@dataclass(frozen=True)
class Row:
    """A row of the table; what is None takes another seed.

    Attributes:
        name: the row's.
        seeds: of the finished runs.
        bits_per_dim: the mean over the seeds.
        spread: their standard deviation.
        by_seed: bits/dim with each seed.
        standard_error: of one run's bits/dim over the images, the mean over the seeds.
        images: test images.
        importance_samples: draws per image.
        weights: ``"raw"`` or ``"ema"``.
        images_seen: training images of each run.
        data: what the runs were trained and measured on.
        parameters: how many.
        binary_parameters: how many of them are binary.
        float_bytes: of the model in float32.
        packed_bytes: of the packed model.
        device: of the first run.
        difference: from the baseline, where there is one with the same seeds.
        half: whether real weights were tested and counted in bfloat16.
    """

    name: str
    seeds: list[int]
    bits_per_dim: float
    spread: float | None
    by_seed: list[float]
    standard_error: float
    images: int
    importance_samples: int
    weights: str
    images_seen: int
    data: str
    parameters: int
    binary_parameters: int
    float_bytes: int
    packed_bytes: int
    device: str
    difference: Difference | None
    half: bool = False


def rows_of(study: Study, folder: Path) -> list[Row]:
    """The rows of which at least one run is finished."""
    finished = {
        name: [run for run in study.runs_of(name) if is_finished(folder, run)]
        for name in study.section.runs
    }
    return [
        _row(name, runs, finished.get(study.section.runs[name].baseline or "", []), folder)
        for name, runs in finished.items()
        if runs
    ]


def _row(name: str, runs: list[PlannedRun], baseline: list[PlannedRun], folder: Path) -> Row:
    summaries = [_summary(folder, run) for run in runs]
    by_seed = [summary["bits_per_dim"] for summary in summaries]
    same = ("images", "importance_samples", "weights", "images_seen", "data", "device")
    sizes = ("parameters", "binary_parameters", "float_bytes", "packed_bytes")
    return Row(
        name=name,
        seeds=[run.seed for run in runs],
        bits_per_dim=statistics.mean(by_seed),
        spread=statistics.stdev(by_seed) if len(by_seed) > 1 else None,
        by_seed=by_seed,
        standard_error=statistics.mean(summary["standard_error"] for summary in summaries),
        difference=_difference(runs, baseline, folder),
        half=summaries[0].get("half", False),  # runs of an older version do not say
        **{key: summaries[0][key] for key in (*same, *sizes)},
    )


def _summary(folder: Path, run: PlannedRun) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((run_folder(folder, run) / "summary.json").read_bytes())
    return summary


def _difference(
    runs: list[PlannedRun], baseline: list[PlannedRun], folder: Path
) -> Difference | None:
    others = {run.seed: run for run in baseline}
    pairs = [(run, others[run.seed]) for run in runs if run.seed in others]
    if not pairs:
        return None
    differences = [_bits(folder, run) - _bits(folder, other) for run, other in pairs]
    of_image = torch.stack(differences).mean(0)
    mean = of_image.mean().item()
    standard_error = of_image.std().item() / math.sqrt(len(of_image))
    return Difference(
        baseline=baseline[0].row,
        mean=mean,
        standard_error=standard_error,
        p=_two_sided(mean, standard_error),
        by_seed=[difference.mean().item() for difference in differences],
    )


def _two_sided(mean: float, standard_error: float) -> float:
    if mean == 0:
        return 1.0
    return math.erfc(abs(mean) / standard_error / math.sqrt(2)) if standard_error else 0.0


def _bits(folder: Path, run: PlannedRun) -> Tensor:
    return load_file(run_folder(folder, run) / TEST_BITS)["bits_per_dim"]
