"""``metrics.jsonl``: every metric of a run, one JSON object a line."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tribin.atomic_file import failures_named
from tribin.errors import InputError
from tribin.tracking.strict_json import Scalar, dump_scalars, load_scalars

BLOCK_BYTES = 4096
"""What is read at a time to find where a line begins or ends."""


class MetricsFile:
    """The metrics of one run on disk, in the order in which they were reported.

    A record is flat and carries ``images_seen``, which never falls from line to line. Each line is
    strict JSON: non-finite floats are written as the strings ``"NaN"``, ``"Infinity"`` and
    ``"-Infinity"`` and read back as floats. The file is opened for each record, so it is complete
    on disk whenever no call is under way.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: Mapping[str, Scalar]) -> None:
        """Add one record at the end of the file, which is created if it is missing.

        Raises:
            OSError: if the disk is full or not writable; the file may then end in a torn line.
        """
        with failures_named(self.path), self.path.open("ab") as file:
            file.write(f"{dump_scalars(record)}\n".encode())

    def sync(self) -> None:
        """Bring all records to the disk, where a power failure leaves them.

        Raises:
            OSError: if the disk fails.
        """
        if self.path.exists():
            with failures_named(self.path), self.path.open("rb") as file:
                os.fsync(file.fileno())

    def read(self) -> Iterator[dict[str, Scalar]]:
        """Yield the records; a last line that a killed run left torn is passed over.

        Raises:
            InputError: another line is not a JSON object.
        """
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return  # only a line that was written to its end has its newline
                try:
                    yield load_scalars(line)
                except ValueError as error:
                    raise InputError(f"{self.path}, line {number}: {error}") from error

    def truncate_after(self, images_seen: int, report: Callable[[str], None]) -> None:
        """Drop every record of more than ``images_seen`` images, and a torn last line.

        A resumed run calls this with the images of its checkpoint, so that the file goes on as if
        the run had never been cut. The file changes in one step; a missing one stays missing. Few
        lines are read, however long the file is: the place is found by bisection.

        Args:
            images_seen: of the last records to keep.
            report: is told of a torn last line.

        Raises:
            InputError: a line that was read is not a JSON object with ``images_seen``.
        """
        if not self.path.exists():
            return
        with failures_named(self.path), self.path.open("r+b") as file:
            descriptor = file.fileno()
            size = os.fstat(descriptor).st_size
            end = _line_start(descriptor, size)
            os.ftruncate(descriptor, self._end_of(images_seen, descriptor, end))
            os.fsync(descriptor)
        if end < size:
            report(f"{self.path.name}: dropped a torn last line")

    def _end_of(self, images_seen: int, descriptor: int, end: int) -> int:
        """Where the records of `images_seen` images end; those up to `end` have their newline."""
        start = 0
        while start < end:  # lines before start are kept, those from end on are not
            middle = _line_start(descriptor, (start + end) // 2)
            line = _read_line(descriptor, middle)
            if self._images_of(line, descriptor, middle) <= images_seen:
                start = middle + len(line)
            else:
                end = middle
        return start

    def _images_of(self, line: bytes, descriptor: int, start: int) -> float:
        try:
            record = load_scalars(line)
            if "images_seen" not in record:
                raise ValueError("it has no images_seen")
            return float(record["images_seen"])
        except (TypeError, ValueError) as error:
            number = os.pread(descriptor, start, 0).count(b"\n") + 1
            raise InputError(f"{self.path}, line {number}: {error}") from error


def _line_start(descriptor: int, position: int) -> int:
    """Where the line begins that holds the byte at `position`: after the newline before it."""
    while position > 0:
        start = max(0, position - BLOCK_BYTES)
        newline = os.pread(descriptor, position - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        position = start
    return 0


def _read_line(descriptor: int, start: int) -> bytes:
    """The line that begins at `start`, with its newline, which it has."""
    line = b""
    while b"\n" not in line:
        line += os.pread(descriptor, BLOCK_BYTES, start + len(line))
    return line[: line.index(b"\n") + 1]
