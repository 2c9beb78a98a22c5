"""``metrics.jsonl``: every metric of a run, one JSON object a line."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from tribin.atomic_file import write_atomically
from tribin.errors import InputError
from tribin.tracking.strict_json import Scalar, dump_scalars, load_scalars


class MetricsFile:
    """The metrics of one run on disk, in the order in which they were reported.

    A record is flat and carries ``images_seen``. Each line is strict JSON: non-finite floats are
    written as the strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"`` and read back as floats.
    The file is opened for each record, so it is complete on disk whenever no call is under way.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: Mapping[str, Scalar]) -> None:
        """Add one record at the end of the file, which is created if it is missing."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(dump_scalars(record) + "\n")

    def read(self) -> Iterator[dict[str, Scalar]]:
        """Yield the records; a last line that a killed run left torn is passed over.

        Raises:
            InputError: another line is not a JSON object.
        """
        for _, record in self._lines():
            yield record

    def truncate_after(self, images_seen: int) -> None:
        """Drop every record of more than ``images_seen`` images, and a torn last line.

        A resumed run calls this with the images of its checkpoint, so that the file goes on as if
        the run had never been cut. The file changes in one step; a missing one stays missing.

        Raises:
            InputError: a line other than a torn last one is not a JSON object.
        """
        if self.path.exists():
            kept = [line for line, record in self._lines() if _images(record) <= images_seen]
            write_atomically(self.path, b"".join(line + b"\n" for line in kept))

    def _lines(self) -> Iterator[tuple[bytes, dict[str, Scalar]]]:
        # Only a line that was written to its end has its newline.
        *lines, _torn = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, start=1):
            try:
                yield line, load_scalars(line)
            except ValueError as error:
                raise InputError(f"{self.path}, line {number}: {error}") from error


def _images(record: Mapping[str, Scalar]) -> float:
    return float(record["images_seen"])
