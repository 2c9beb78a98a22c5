"""Writing a file so that nobody ever sees half of it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` in one step; a reader sees the old file or the new one.

    Raises:
        OSError: the folder is missing or not writable, or the disk is full; it names ``path``,
            which is as before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with failures_named(path):
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def failures_named(path: Path) -> Iterator[None]:
    """Let each OSError from inside name ``path``: that of a full disk names no file by itself."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise
