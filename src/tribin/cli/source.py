"""What a command is pointed at: a recipe, the folder of a run, or a packed file."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tribin.errors import InputError


def is_packed(path: Path) -> bool:
    """Whether to read the source as a packed file, be it damaged.

    Of the 8 bytes of length that one begins with, the last are zeros, which no YAML has.
    """
    with suppress(OSError, ValueError), path.open("rb") as file:
        return path.suffix == ".safetensors" or b"\0" in file.read(8)
    return False


def refuse_overrides(overrides: Sequence[str], kind: str) -> None:
    """Raise an InputError for the first of them: only a recipe of its own can be overridden."""
    if overrides:
        raise InputError(f"{overrides[0]}: a {kind}'s recipe can't be overridden")
