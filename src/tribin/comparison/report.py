"""A comparison for people and programs: a Markdown table, JSON, and a plot."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from tribin.atomic_file import write_atomically
from tribin.comparison.measurement import Measurement
from tribin.comparison.side_by_side import Comparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = (
    "model", "weights", "test bits/dim", "parameters", "binary", "bytes on disk",
    "images/s evaluated", "images/s sampled", "peak memory, MB", "before the model, MB",
)  # fmt: skip


def write_report(comparison: Comparison, folder: Path) -> None:
    """Write ``comparison.md``, ``comparison.json`` and ``comparison.png``, in a new folder or not.

    Raises:
        OSError: if the folder can't be made or is not writable, or the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    image = BytesIO()
    plot(comparison).savefig(image, format="png", dpi=150)
    contents = {
        "md": f"{to_markdown(comparison)}\n\n![bits/dim and bytes](comparison.png)\n".encode(),
        "json": f"{to_json(comparison)}\n".encode(),
        "png": image.getvalue(),
    }
    for suffix, content in contents.items():
        write_atomically(folder / f"comparison.{suffix}", content)


def to_json(comparison: Comparison) -> str:
    """The comparison as a JSON object, its keys the attributes."""
    return json.dumps(asdict(comparison), indent=2)


def to_markdown(comparison: Comparison) -> str:
    """A table with a row for each model, and what they were measured on."""
    alignment = ["---", "---", *["---:"] * (len(COLUMNS) - 2)]
    rows = [COLUMNS, alignment, *map(_row, comparison.models)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{table}\n\n{_conditions(comparison)}"


def _row(model: Measurement) -> list[str]:
    return [
        model.source.replace("|", "\\|"),
        model.weights,
        f"{model.bits_per_dim:.4f} ± {model.standard_error:.4f}",
        f"{model.parameters:,}",
        f"{model.binary_parameters / model.parameters:.2%}",
        f"{model.bytes_on_disk:,}",
        _speed(model.evaluated_images_per_second),
        _speed(model.sampled_images_per_second),
        f"{model.peak_memory_bytes / 1e6:,.0f}",
        f"{model.idle_memory_bytes / 1e6:,.0f}",
    ]


def _speed(images_per_second: float) -> str:
    return f"{images_per_second:,.{2 if images_per_second < 10 else 0}f}"


def _conditions(comparison: Comparison) -> str:
    settings, machine = comparison.settings, comparison.provenance
    return (
        f"Bits/dim: mean ± standard error over {settings.images:,} test images "
        f"({comparison.data}), importance samples: {settings.importance_samples}, "
        f"noise of seed {settings.seed}. "
        f"Speed is that of the median of batches of {settings.batch_size:,}, for one draw of an "
        "image's density and for one sample. Each model ran in a process of its own, on "
        f"{machine['device']}, torch {machine['torch']}, tribin {machine['tribin']}, "
        f"{machine['date']}."
    )


def plot(comparison: Comparison) -> Figure:
    """Bits/dim, with standard errors, against bytes on disk on a logarithmic axis."""
    from matplotlib.figure import Figure  # takes its time, and only this needs it

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel="bytes on disk", ylabel="test bits/dim")
    models = comparison.models
    for model, label in zip(models, _labels([model.source for model in models]), strict=True):
        point = model.bytes_on_disk, model.bits_per_dim
        axes.errorbar(*point, yerr=model.standard_error, fmt="o", capsize=3)
        axes.annotate(label, point, xytext=(6, 6), textcoords="offset points", parse_math=False)
    axes.set_title(f"{comparison.settings.images:,} test images, ± standard error")
    axes.margins(x=0.25)
    axes.grid(which="both", alpha=0.2)
    return figure


def _labels(sources: list[str]) -> list[str]:
    """The paths without the folder that they share."""
    common = os.path.commonpath([Path(source).absolute().parent for source in sources])
    return [os.path.relpath(source, common) for source in sources]
