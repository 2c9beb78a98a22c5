"""``tribin checkpoints``: a run's checkpoints, verified."""

import json
from pathlib import Path
from typing import Any

import click

from tribin.errors import InputError
from tribin.training.checkpoint import Checkpoint
from tribin.training.manifest import DamagedCheckpointError
from tribin.training.run_folder import RunFolder


@click.command()
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def checkpoints(run_dir: Path, as_json: bool) -> None:
    """List a run's checkpoints, oldest to newest, and read them all to verify them."""
    found = RunFolder.open(run_dir).checkpoints.verify_all()
    rows = [_row(folder, state) for folder, state in found.items()]
    intact = [row["images_seen"] for row in rows if row["intact"]]
    record = {"checkpoints": rows, "resumes_from": max(intact, default=None)}
    click.echo(json.dumps(record) if as_json else _text(record))
    if rows and not intact:
        raise InputError(f"{run_dir} holds no intact checkpoint")


def _row(folder: Path, state: Checkpoint | DamagedCheckpointError) -> dict[str, Any]:
    row = {
        "folder": str(folder),
        "images_seen": int(folder.name),
        "bytes": sum(file.stat().st_size for file in folder.iterdir()),
    }
    if isinstance(state, DamagedCheckpointError):
        return {**row, "saved": None, "intact": False, "damage": state.damage}
    saved = state.metadata.get("provenance", {}).get("date")
    return {**row, "saved": saved, "intact": True, "damage": None}


def _text(record: dict[str, Any]) -> str:
    if not record["checkpoints"]:
        return "no checkpoint yet: a resume starts from the beginning"
    lines = [f"{'images seen':>14}  {'bytes':>15}  {'saved':<25}  state"]
    for row in record["checkpoints"]:
        state, saved = row["damage"] or "intact", row["saved"] or "unknown"
        if row["images_seen"] == record["resumes_from"]:
            state += ", a resume takes this one"
        lines.append(f"{row['images_seen']:>14,}  {row['bytes']:>15,}  {saved:<25}  {state}")
    return "\n".join(lines)
