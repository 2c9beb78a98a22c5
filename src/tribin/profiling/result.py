"""What a profile leaves: one JSON file with everything it saw and where."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from numbers import Real
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from tribin.atomic_file import write_atomically
from tribin.cost import OperationCost
from tribin.errors import InputError
from tribin.profiling.clocks import clocks
from tribin.profiling.timing import Timing
from tribin.provenance import provenance

VERSION = 1
FILE_NAME = "results.json"
Kind = Literal["kernels", "model", "step", "scaling"]


@dataclass(frozen=True)
class Entry:
    """One contender at one problem.

    Attributes:
        problem: what was computed; problems of one result have names of their own.
        contender: how.
        timing: seconds a call.
        operations: multiplications and additions that the problem asks for.
        bytes: that it moves at least, each operand read and each result written once.
        arithmetic: the ceiling on its operations, a key of `Result.ceilings`; None without any.
        images: that a call computes, where it has whole ones.
    """

    problem: str
    contender: str
    timing: Timing
    operations: int = 0
    bytes: int = 0
    arithmetic: str | None = None
    images: int | None = None

    @classmethod
    def of_costs(
        cls,
        problem: str,
        contender: str,
        timing: Timing,
        costs: Sequence[OperationCost],
        images: int,
    ) -> "Entry":
        """A contender that runs several operations; 0 of them where they are not known."""
        arithmetic = {cost.arithmetic for cost in costs if cost.arithmetic}
        return cls(
            problem,
            contender,
            timing,
            operations=2 * sum(cost.multiply_adds for cost in costs),
            bytes=sum(cost.bytes for cost in costs),
            arithmetic=arithmetic.pop() if len(arithmetic) == 1 else None,  # else no one ceiling
            images=images,
        )


@dataclass(frozen=True)
class Result:
    """One profile.

    Attributes:
        kind: which.
        settings: what was asked for, JSON.
        provenance: device, versions, commit and date, as `tribin.provenance` names them, and the
            versions of triton and CUDA.
        clocks: of the device, MHz, as far as the system says; see `tribin.profiling.clocks`.
        ceilings: measured rates: ``"copy"`` in bytes a second, the others in operations a second
            by what is multiplied: ``"float32"``, ``"bfloat16"``, ``"int8"``, ``"bit"``.
        entries: what was timed.
        details: what else a kind measures, JSON.
    """

    kind: Kind
    settings: dict[str, Any]
    provenance: dict[str, str | None]
    clocks: dict[str, float]
    ceilings: dict[str, float]
    entries: list[Entry]
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_now(
        cls,
        kind: Kind,
        device: torch.device,
        settings: Mapping[str, Any],
        ceilings: Mapping[str, float],
        entries: list[Entry],
        details: Mapping[str, Any] | None = None,
    ) -> "Result":
        """A result of this process, on this machine, at this time."""
        machine = {**provenance(device), "triton": _triton_version(), "cuda": torch.version.cuda}
        return cls(
            kind,
            dict(settings),
            machine,
            clocks(device),
            dict(ceilings),
            entries,
            dict(details or {}),
        )

    def floor(self, entry: Entry) -> float | None:
        """Seconds that the entry takes at least: bytes over bandwidth, or operations over rate.

        None where a ceiling is not known.
        """
        rates = [self.ceilings.get("copy")]
        amounts = [entry.bytes]
        if entry.arithmetic is not None:
            rates.append(self.ceilings.get(entry.arithmetic))
            amounts.append(entry.operations)
        if None in rates or not any(amounts):
            return None
        return max(amount / rate for amount, rate in zip(amounts, rates, strict=True) if rate)

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps({"tribin_profile": VERSION, **asdict(self)}, indent=1)


def _triton_version() -> str | None:
    try:
        return version("triton")
    except PackageNotFoundError:
        return None


def write_result(result: Result, folder: Path) -> None:
    """Write ``results.json`` into a folder, which is made where it is missing.

    Raises:
        InputError: if it can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / FILE_NAME, f"{result.to_json()}\n".encode())
    except OSError as error:
        raise InputError(f"--output: {folder} cannot be written: {error.strerror}") from error


def read_result(path: Path) -> Result:
    """Read a result from its file, or from the folder that holds it.

    Raises:
        InputError: if there is none, or it is of another version.
    """
    file = path / FILE_NAME if path.is_dir() else path
    try:
        values = json.loads(file.read_bytes())
        written_by = values.pop("tribin_profile")
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{file} is no result of tribin profile") from error
    if written_by != VERSION:
        raise InputError(
            f"{file} is of version {written_by!r}; this tribin reads results of version {VERSION}"
        )
    try:
        return _from_json(values)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file} is damaged: {error}") from error


def _from_json(values: dict[str, Any]) -> Result:
    if values.keys() != {field.name for field in fields(Result)}:
        raise ValueError(f"it has the fields {', '.join(values)}")
    if values["kind"] not in get_args(Kind):
        raise ValueError(f"its kind is {values['kind']!r}")
    if not all(isinstance(value, Real) for value in values["ceilings"].values()):
        raise ValueError("a ceiling is no number")
    return Result(**{**values, "entries": [_entry(entry) for entry in values["entries"]]})


def _entry(values: dict[str, Any]) -> Entry:
    entry = Entry(**{**values, "timing": Timing(**values["timing"])})
    numbers = (*asdict(entry.timing).values(), entry.operations, entry.bytes)
    if not all(isinstance(value, Real) for value in numbers) or entry.timing.median <= 0:
        raise ValueError(f"{entry.problem!r}, {entry.contender!r} has no numbers")
    return entry
