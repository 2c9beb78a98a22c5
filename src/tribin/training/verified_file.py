"""Files that are read back from the disk as soon as they are written, and known by a checksum."""

import errno
import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tribin.atomic_file import failures_named


def write_verified(path: Path, content: Sequence[bytes | memoryview]) -> dict[str, Any]:
    """Write a file, bring it to the disk, read it back and compare.

    Args:
        path: the file.
        content: its bytes, in parts.

    Returns:
        Its size and checksum, ``bytes`` and ``sha256``, computed from `content`, for `is_intact`.

    Raises:
        OSError: if it can't be written, or something else is read back; it names `path`.
    """
    digest = hashlib.sha256()
    for part in content:
        digest.update(part)
    record = {"bytes": sum(map(len, content)), "sha256": digest.hexdigest()}
    with failures_named(path):
        with path.open("wb") as file:
            for part in content:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
            _forget_cached(file.fileno())
        if not is_intact(path, record):
            path.stat()  # fails by itself where the file is gone
            raise OSError(errno.EIO, "what is read back is not what was written")
    return record


def is_intact(path: Path, record: Mapping[str, Any]) -> bool:
    """Whether a file can be read and is the one that `write_verified` wrote."""
    try:
        if path.stat().st_size != record["bytes"]:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == record["sha256"]
    except OSError:
        return False


def sync_folder(path: Path) -> None:
    """Bring the names in a folder to the disk."""
    with failures_named(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _forget_cached(descriptor: int) -> None:
    """Let what is read next come from the disk, not from memory."""
    if sys.platform == "linux":
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
