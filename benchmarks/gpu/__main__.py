"""What a GPU does with tribin, measured in half an hour with torch, triton and einops alone.

    PYTHONPATH=src:kernels python -m benchmarks.gpu [--output FOLDER] [--minutes 25] [--data FILE]
    PYTHONPATH=src:kernels python -m benchmarks.gpu --train --data FILE [--test FILE]

In the order of their value: the environment, a check of every op against float64, the machine's
ceilings, kernels beside their baselines, evaluation, sampling and training steps of the CIFAR-10
models and, with images from `benchmarks.gpu.images`, short training runs. Each stage has a process
and a folder of its own; FOLDER/log.txt has all that was printed. The same command, given again,
goes on where a campaign was cut, and does again what failed.

With --train a model is trained instead, in its precisions side by side and for equal numbers of
images, to the end of its recipes: by the same command, given again and again.

Exit codes: 0 all is done, 1 something failed or is wrong, 2 bad input, 75 the time is over.
"""

import argparse
import hashlib
import json
import math
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# cuBLAS is reproducible only with a workspace of fixed size.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch

from benchmarks.gpu.campaign import Stage, exit_code, run_stages
from benchmarks.gpu.images import read_images
from benchmarks.gpu.recipes import MODEL_NAMES
from benchmarks.gpu.side_by_side import train_side_by_side
from benchmarks.gpu.stage_process import run_in_process
from benchmarks.gpu.stages import Settings, run_stage, stages
from benchmarks.results_folder import results_folder
from tribin.atomic_file import write_atomically
from tribin.errors import InputError

LOG = "log.txt"
LARGEST_FOLDER = 16 * 10**6
"""Bytes."""


def main() -> int:
    """Run what was asked for; return the exit code."""
    arguments = _arguments()
    try:
        _check_together(arguments)
        settings = _settings(arguments)
        chosen = _chosen(stages(settings), arguments.only)
        _claim(settings.output, _identity(arguments))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    report = partial(_report, settings.output / LOG)
    if arguments.train:
        return _train(_model(arguments), settings, arguments.minutes, report)
    return _measure(chosen, settings, arguments.minutes, report)


def _measure(
    chosen: list[Stage], settings: Settings, minutes: float, report: Callable[[str], None]
) -> int:
    def execute(stage: Stage, folder: Path, seconds: float, limit: float) -> None:
        run = partial(run_stage, settings, stage.name, folder, seconds)
        run_in_process(run, limit, settings.output / LOG)

    outcomes = run_stages(chosen, settings.output, minutes=minutes, execute=execute, report=report)
    report("\n" + "\n".join(map(str, outcomes)))
    report(_size(settings.output))
    return exit_code(outcomes)


def _train(model: str, settings: Settings, minutes: float, report: Callable[[str], None]) -> int:
    assert settings.data is not None
    return train_side_by_side(
        model,
        read_images(settings.data, settings.test),
        settings.output,
        settings.device,
        seconds=60 * minutes,
        tiny=settings.tiny,
        report=report,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--output", type=Path, help="folder for the results")
    parser.add_argument("--minutes", type=float, default=25, help="nothing starts that won't fit")
    parser.add_argument("--data", type=Path, help="images to train on, of benchmarks.gpu.images")
    parser.add_argument(
        "--test", type=Path, help="images to evaluate on, instead of some of --data"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small models and shapes, as a test")
    parser.add_argument(
        "--only",
        action="append",
        metavar="STAGE",
        help="a stage or a group of them; repeatable",
    )
    parser.add_argument("--train", action="store_true", help="train precisions side by side")
    parser.add_argument("--model", choices=MODEL_NAMES, help="of --train, by default the first")
    return parser.parse_args()


def _check_together(arguments: argparse.Namespace) -> None:
    """Refuse options that say nothing without others, or beside them."""
    if arguments.train and arguments.only:
        raise InputError("--only: chooses stages of a campaign, it does not go with --train")
    if arguments.train and not arguments.data:
        raise InputError("--train: takes images to train on, name their file with --data")
    if arguments.model and not arguments.train:
        raise InputError("--model: says what --train is to train, it goes with it only")
    if arguments.test and not arguments.data:
        raise InputError("--test: evaluates what is trained on --data, name a file with that, too")


def _model(arguments: argparse.Namespace) -> str:
    """That --train is to train."""
    return arguments.model or MODEL_NAMES[0]


def _settings(arguments: argparse.Namespace) -> Settings:
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device: there is no cuda device here; cpu would do")
    if not 0 <= arguments.minutes < math.inf:
        raise InputError(f"--minutes: {arguments.minutes:g} is not a number of minutes")
    if arguments.data:
        read_images(arguments.data, arguments.test)
    device = torch.device(arguments.device)
    suite = f"training-{_model(arguments)}" if arguments.train else "gpu"
    suite += "-tiny" * arguments.tiny
    output = arguments.output or results_folder(suite, device)
    return Settings(output, device, arguments.tiny, arguments.data, arguments.test)


def _chosen(all_stages: list[Stage], names: list[str] | None) -> list[Stage]:
    for name in names or ():
        if not any(stage.is_of([name]) for stage in all_stages):
            groups = dict.fromkeys(stage.name.partition(".")[0] for stage in all_stages)
            raise InputError(f"--only: no stage is called {name!r}; there are {', '.join(groups)}")
    return [stage for stage in all_stages if names is None or stage.is_of(names)]


def _identity(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the same campaign, or training, has in common each time."""
    identity = {"device": arguments.device, "tiny": arguments.tiny}
    if arguments.train:
        with arguments.data.open("rb") as file:
            images = hashlib.file_digest(file, "sha256").hexdigest()
        return {**identity, "train": _model(arguments), "images": images[:16]}
    return identity


def _claim(output: Path, identity: dict[str, Any]) -> None:
    """Make the folder the campaign's, or see that it is the same campaign's already."""
    file = output / "campaign.json"
    try:
        output.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            write_atomically(file, json.dumps(identity).encode())
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--output: {output} can't be used: {error}") from error
    if found != identity:
        raise InputError(
            f"--output: {output} is of the campaign {found}, this one is {identity}; "
            "name another folder"
        )


def _report(log: Path, text: str) -> None:
    print(text, flush=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(f"{text}\n")


def _size(folder: Path) -> str:
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    text = f"{size / 1e6:.1f} MB in {folder}"
    return f"warning: {text}, more than 16 MB" if size > LARGEST_FOLDER else text


if __name__ == "__main__":
    sys.exit(main())
