"""Checkpoints: safetensors and a manifest with checksums, written in one step, never pickle.

A store is a folder of folders named by images seen::

    12800/model.safetensors  12800/optimizer.safetensors  …  12800/manifest.json
    latest                   the name of the newest, for people; loading does not need it

What ends in ``.tmp`` is being written or removed, or was when a process died.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from tribin.atomic_file import failures_named, write_atomically
from tribin.errors import InputError
from tribin.training.manifest import DamagedCheckpointError, verify, write_manifest
from tribin.training.snapshot import Snapshot, check_finite, take_snapshots
from tribin.training.verified_file import sync_folder, write_verified

LATEST = "latest"


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
        folder: created at the first save, in a folder that exists.
        keep: how many of the newest intact ones to keep.
    """

    def __init__(self, folder: Path, keep: int = 1) -> None:
        self.folder = folder
        self.keep = keep
        self._writer = futures.ThreadPoolExecutor(1, "checkpoints")
        self._writing: futures.Future[None] | None = None

    def save(
        self,
        images_seen: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        metadata: Mapping[str, Any],
    ) -> None:
        """Copy named groups of tensors, and begin to write them in the background.

        The folder appears complete and verified, or not at all; the older checkpoints stay until
        then. Waits for the save before.

        Raises:
            NonFiniteError: if a tensor of the save before is not finite; it was not saved.
            OSError: if the save before failed.
        """
        self.wait()
        snapshots = take_snapshots(tensors)
        self._writing = self._writer.submit(
            self._write, images_seen, snapshots, deepcopy(dict(metadata))
        )

    def wait(self) -> None:
        """Return when what was saved is on the disk.

        Raises:
            NonFiniteError: if a tensor is not finite; it was not saved.
            OSError: if the disk is full or not writable; it names the file.
        """
        if self._writing is not None:
            futures.wait([self._writing])  # a signal here leaves the rest to the next call
            written, self._writing = self._writing, None
            written.result()

    def newest_intact(self, report: Callable[[str], None]) -> Checkpoint | None:
        """The newest checkpoint whose files are as they were written; None if there is none yet.

        Args:
            report: is told of each damaged checkpoint that was passed over.

        Raises:
            InputError: if there are checkpoints and all are damaged.
        """
        self.wait()
        faults: list[str] = []
        for folder in self._newest_first():
            try:
                checkpoint = _verified(folder)
            except DamagedCheckpointError as error:
                faults.append(str(error))
                continue
            for fault in faults:
                report(f"{fault}; falling back to {folder.name}")
            return checkpoint
        if faults:
            raise InputError(f"{self.folder} holds no intact checkpoint: " + "; ".join(faults))
        return None

    def verify_all(self) -> dict[Path, Checkpoint | DamagedCheckpointError]:
        """Each folder with its checkpoint, or with what is wrong with it; oldest to newest."""
        self.wait()
        found: dict[Path, Checkpoint | DamagedCheckpointError] = {}
        for folder in reversed(list(self._newest_first())):
            try:
                found[folder] = _verified(folder)
            except DamagedCheckpointError as error:
                found[folder] = error
        return {folder: state for folder, state in found.items() if folder.exists()}  # not pruned

    def _newest_first(self) -> Iterator[Path]:
        if self.folder.is_dir():
            numbered = [path for path in self.folder.iterdir() if path.name.isdecimal()]
            folders = [path for path in numbered if path.is_dir()]
            yield from sorted(folders, key=lambda path: int(path.name), reverse=True)

    def _write(
        self, images_seen: int, snapshots: Mapping[str, Snapshot], metadata: Mapping[str, Any]
    ) -> None:
        check_finite(snapshots)
        self._make_folder()
        target = self.folder / str(images_seen)
        temporary = target.with_suffix(".tmp")
        try:
            _fill(temporary, images_seen, snapshots, metadata)
            if target.exists():  # a damaged one, which the run was not resumed from
                _remove(target)
            os.rename(temporary, target)
            sync_folder(self.folder)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        write_atomically(self.folder / LATEST, f"{target.name}\n".encode())
        self._prune(images_seen)

    def _make_folder(self) -> None:
        if not self.folder.exists():
            self.folder.mkdir()
            sync_folder(self.folder.parent)
        for leftover in self.folder.glob("*.tmp"):
            with failures_named(leftover):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    def _prune(self, saved: int) -> None:
        # Any ahead are damaged, or the run would have been resumed from them: they are replaced
        # when the run gets there. No damaged one counts in the place of an intact one.
        intact = 1
        for folder in self._newest_first():
            if int(folder.name) < saved:
                if intact == self.keep:
                    _remove(folder)
                else:
                    intact += _is_intact(folder)


def _fill(
    folder: Path,
    images_seen: int,
    snapshots: Mapping[str, Snapshot],
    metadata: Mapping[str, Any],
) -> None:
    folder.mkdir()
    files = {}
    for name, snapshot in snapshots.items():
        file = folder / f"{name}.safetensors"
        files[file.name] = write_verified(file, snapshot.file_content)
    write_manifest(folder, {"images_seen": images_seen, "files": files, **metadata})
    sync_folder(folder)


def _remove(folder: Path) -> None:
    """Remove a checkpoint, of which nothing is left where a checkpoint is looked for."""
    with failures_named(folder):
        discarded = folder.with_suffix(".old.tmp")
        os.rename(folder, discarded)
        shutil.rmtree(discarded)


def _verified(folder: Path) -> Checkpoint:
    content = verify(folder)
    images_seen = content.pop("images_seen")
    del content["files"]
    return Checkpoint(folder, images_seen, content)


def _is_intact(folder: Path) -> bool:
    try:
        verify(folder)
    except DamagedCheckpointError:
        return False
    return True
