"""Checkpoints: safetensors and a manifest with checksums, written in one step, never pickle.

A store is a folder of folders named by images seen::

    12800/model.safetensors  12800/optimizer.safetensors  …  12800/manifest.json
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from tribin.errors import InputError, NonFiniteError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """An intact checkpoint on disk.

    Attributes:
        folder: where it is.
        images_seen: training images behind it.
        metadata: what was saved beside the tensors.
    """

    folder: Path
    images_seen: int
    metadata: dict[str, Any]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors saved as `name`, on the CPU."""
        return load_file(self.folder / f"{name}.safetensors")

    def bytes_of(self, name: str) -> int:
        """The size of the file of the tensors saved as `name`."""
        return (self.folder / f"{name}.safetensors").stat().st_size

    def holds(self, name: str) -> bool:
        """Whether tensors were saved as `name`."""
        return (self.folder / f"{name}.safetensors").exists()


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        folder: created at the first save.
        keep: how many of the newest to keep.
    """

    def __init__(self, folder: Path, keep: int = 1) -> None:
        self.folder = folder
        self.keep = keep

    def save(
        self,
        images_seen: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        metadata: Mapping[str, Any],
    ) -> Path:
        """Save named groups of tensors; the folder appears complete or not at all.

        Raises:
            NonFiniteError: if a tensor is not finite; nothing is saved then.
            OSError: if the disk is full or not writable; older checkpoints stay.
        """
        _check_finite(tensors)
        target = self.folder / str(images_seen)
        temporary = target.with_suffix(".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        files = {}
        for name, group in tensors.items():
            file = temporary / f"{name}.safetensors"
            save_file({key: value.detach().contiguous() for key, value in group.items()}, file)
            _sync(file)
            files[file.name] = {"bytes": file.stat().st_size, "sha256": _sha256(file)}
        content = {"images_seen": images_seen, "files": files, **metadata}
        manifest = {"format": FORMAT_VERSION, "sha256": _json_sha256(content), **content}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        _sync(temporary / MANIFEST)
        _sync(temporary)
        if target.exists():  # a damaged one, which the run was not resumed from
            shutil.rmtree(target)
        os.rename(temporary, target)
        _sync(self.folder)
        self._prune(images_seen)
        return target

    def newest_intact(self, report: Callable[[str], None]) -> Checkpoint | None:
        """The newest checkpoint whose files are as they were written; None if there is none yet.

        Args:
            report: is told of each damaged checkpoint that was passed over.

        Raises:
            InputError: if there are checkpoints and all are damaged.
        """
        faults: list[str] = []
        for folder in self._newest_first():
            try:
                checkpoint = _verified(folder)
            except InputError as error:
                faults.append(str(error))
                continue
            for fault in faults:
                report(f"{fault}; falling back to {folder.name}")
            return checkpoint
        if faults:
            raise InputError(f"{self.folder} holds no intact checkpoint: " + "; ".join(faults))
        return None

    def _newest_first(self) -> Iterator[Path]:
        if self.folder.is_dir():
            numbered = [path for path in self.folder.iterdir() if path.name.isdecimal()]
            yield from sorted(numbered, key=lambda path: int(path.name), reverse=True)

    def _prune(self, saved: int) -> None:
        # Any ahead are damaged: they must not count in the place of good ones.
        reached = [folder for folder in self._newest_first() if int(folder.name) <= saved]
        for folder in reached[self.keep :]:
            shutil.rmtree(folder)


def _verified(folder: Path) -> Checkpoint:
    content = _read_manifest(folder)
    images_seen, files = content.pop("images_seen"), content.pop("files")
    damaged = [name for name, file in files.items() if not _matches(folder / name, file)]
    if damaged:
        raise InputError(f"checkpoint {folder}: damaged or missing {', '.join(damaged)}")
    return Checkpoint(folder, images_seen, content)


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
        version, checksum = content.pop("format"), content.pop("sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"checkpoint {folder}: its manifest is damaged ({error!r})") from error
    if version != FORMAT_VERSION:
        raise InputError(
            f"checkpoint {folder}: format {version!r}, this tribin reads {FORMAT_VERSION}"
        )
    if checksum != _json_sha256(content):
        raise InputError(f"checkpoint {folder}: its manifest is damaged (another checksum)")
    return content


def _matches(file: Path, expected: Mapping[str, Any]) -> bool:
    try:
        return file.stat().st_size == expected["bytes"] and _sha256(file) == expected["sha256"]
    except OSError:
        return False


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _json_sha256(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_finite(tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
    for name, group in tensors.items():
        for key, value in group.items():
            if value.is_floating_point() and not value.isfinite().all():
                raise NonFiniteError(f"{key} of the {name} is not finite, so it is not saved")
