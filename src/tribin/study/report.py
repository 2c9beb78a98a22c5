"""A study for people and programs: a Markdown table, CSV, JSON and plots."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from tribin.atomic_file import failures_named, write_atomically
from tribin.provenance import tribin_version
from tribin.study.plan import Study
from tribin.study.results import Row
from tribin.study.runner import run_folder
from tribin.tracking import MetricsFile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = (
    "row", "seeds", "images seen", "test bits/dim", "less its baseline", "with each seed", "p",
    "parameters", "binary", "float32, bytes", "packed, bytes",
)  # fmt: skip
HALF = " (bfloat16)"
"""Behind the bytes of a packed model."""

SMALLEST_P = 1e-12
"""Below it the tail of a normal distribution says nothing of a mean over images."""


def write_report(study: Study, rows: list[Row], folder: Path) -> None:
    """Write ``table.md``, ``table.csv``, ``results.json``, ``curves.png`` and ``bytes.png``.

    Raises:
        OSError: if the folder is not writable, or the disk is full; it names the file.
    """
    contents = {
        "table.md": f"{to_markdown(rows)}\n".encode(),
        "table.csv": to_csv(rows).encode(),
        "results.json": f"{to_json(study, rows)}\n".encode(),
        "curves.png": _png(curves(study, rows, folder)),
        "bytes.png": _png(bits_against_bytes(rows)),
    }
    with failures_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_atomically(folder / name, content)


def to_markdown(rows: list[Row]) -> str:
    """The table, and what its numbers are."""
    alignment = ["---", *["---:"] * (len(COLUMNS) - 1)]
    lines = [COLUMNS, alignment, *map(_cells, rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\n{_conditions(rows)}"


def to_csv(rows: list[Row]) -> str:
    """The table with a line for each row, numbers in full."""
    text = StringIO()
    flat = [
        {**asdict(row), "difference": None}
        | {
            f"difference_{key}": value
            for key, value in (asdict(row.difference) if row.difference else {}).items()
        }
        for row in rows
    ]
    fields = list(dict.fromkeys(key for row in flat for key in row if key != "difference"))
    writer = csv.DictWriter(text, fields, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def to_json(study: Study, rows: list[Row]) -> str:
    """The study and its rows as a JSON object."""
    content = {
        "study": study.name,
        "tribin": tribin_version(),
        **study.section.model_dump(mode="json"),
        "rows": [asdict(row) for row in rows],
    }
    return json.dumps(content, indent=1)


def _cells(row: Row) -> list[str]:
    spread = "" if row.spread is None else f" ± {row.spread:.4f}"
    difference = row.difference
    return [
        row.name,
        ", ".join(map(str, row.seeds)),
        f"{row.images_seen:,}",
        f"{row.bits_per_dim:.4f}{spread}",
        "" if difference is None else f"{difference.mean:+.4f} ± {difference.standard_error:.4f}",
        "" if difference is None else ", ".join(f"{seed:+.4f}" for seed in difference.by_seed),
        "" if difference is None else _p(difference.p),
        f"{row.parameters:,}",
        f"{row.binary_parameters / row.parameters:.2%}",
        f"{row.float_bytes:,}",
        _packed(row),
    ]


def _packed(row: Row) -> str:
    if not row.binary_parameters:
        return ""
    return f"{row.packed_bytes:,}{HALF if row.half else ''}"


def _p(p: float) -> str:
    return f"{p:.2g}" if p >= SMALLEST_P else f"< {SMALLEST_P:g}"


def _conditions(rows: list[Row]) -> str:
    sets = {f"{row.images:,} test images of {row.data}": None for row in rows}
    devices = {row.device: None for row in rows}
    draws = {f"{row.importance_samples} sample{'s' * (row.importance_samples > 1)}" for row in rows}
    weights = {row.weights for row in rows}
    baselines = {row.difference.baseline: None for row in rows if row.difference}
    lines = [
        f"Bits/dim: mean ± standard deviation over the seeds, on {'; '.join(sets)}; "
        f"{' or '.join(sorted(draws))}, {' or '.join(sorted(weights))} weights; "
        f"trained on {'; '.join(devices)}."
    ]
    if any(row.half for row in rows):
        lines.append(f"Where it says{HALF}, real weights were tested in it, too.")
    if baselines:
        lines.append(
            f"The baseline is {' or '.join(baselines)}: differences are taken image by image with "
            "the same seeds, ± standard error over the images; p is two-sided, of these images and "
            "not of other seeds."
        )
    return " ".join(lines)


def curves(study: Study, rows: list[Row], folder: Path) -> Figure:
    """Training bits/dim against the images seen, for each run."""
    from matplotlib.figure import Figure  # takes its time, and only this needs it

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="training images", ylabel="bits/dim of training batches")
    for index, row in enumerate(rows):
        for run in study.runs_of(row.name):
            if run.seed in row.seeds:
                records = MetricsFile(run_folder(folder, run) / "metrics.jsonl").read()
                points = [(r["images_seen"], r["bits_per_dim"]) for r in records if "loss" in r]
                label = row.name if run.seed == row.seeds[0] else None
                axes.plot(*zip(*points, strict=True), color=f"C{index}", label=label, linewidth=1)
    axes.legend()
    axes.grid(alpha=0.2)
    return figure


def bits_against_bytes(rows: list[Row]) -> Figure:
    """Test bits/dim, with their spread, against the bytes that the model is shipped in."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel="bytes", ylabel="test bits/dim")
    for row in rows:
        point = row.packed_bytes, row.bits_per_dim
        axes.errorbar(*point, yerr=row.spread or 0, fmt="o", capsize=3)
        axes.annotate(row.name, point, xytext=(6, 6), textcoords="offset points", parse_math=False)
    sizes = [row.packed_bytes for row in rows]
    axes.set_xlim(min(sizes) / 2, max(sizes) * 2)  # also where they are one
    axes.grid(which="both", alpha=0.2)
    return figure


def _png(figure: Figure) -> bytes:
    image = BytesIO()
    figure.savefig(image, format="png", dpi=150)
    return image.getvalue()
