"""What a run says when its disk fails."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tribin.errors import InputError
from tribin.training.run_folder import RECIPE, RunFolder

REMEDIES = {
    errno.ENOSPC: "free space",
    errno.EDQUOT: "free space",
    errno.EFBIG: "allow larger files",
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
    errno.EROFS: "make it writable",
    errno.ENOENT: "put the folder back",
    errno.ENOTDIR: "put the folder back",
}


@contextmanager
def writing(run: RunFolder) -> Iterator[None]:
    """Around all that writes into a run: however it is left, its checkpoints are on the disk.

    Raises:
        InputError: if a file of the run could not be written.
        NonFiniteError: if a checkpoint could not be saved because it is not finite.
    """
    try:
        try:
            yield
        finally:
            run.checkpoints.wait()
    except OSError as error:
        if not _is_of_run(error, run):
            raise
        raise InputError(f"{error.filename}: {error.strerror}; {_advice(run, error)}") from error


def _is_of_run(error: OSError, run: RunFolder) -> bool:
    if not isinstance(error.filename, str | os.PathLike):
        return False
    return Path(error.filename).is_relative_to(run.path)


def _advice(run: RunFolder, error: OSError) -> str:
    if not (run.path / RECIPE).is_file():
        return "the run and its checkpoints are gone: train it again"
    try:
        checkpoint = run.checkpoints.newest_intact(lambda fault: None)
    except InputError as fault:
        return str(fault)
    remedy = REMEDIES.get(error.errno or 0, "see to the disk")
    go_on = f"{remedy}, then `tribin resume {run.path}`"
    if checkpoint is None:
        return f"there is no checkpoint yet: {go_on}, which starts from the beginning"
    return f"checkpoint {checkpoint.images_seen} is kept: {go_on}"
