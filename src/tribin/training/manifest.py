"""The manifest of a checkpoint: what else is in its folder, with checksums, and its own one."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tribin.errors import InputError
from tribin.training.verified_file import is_intact, write_verified

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


class DamagedCheckpointError(InputError):
    """A checkpoint is not as it was written; `damage` says what is wrong with it."""

    def __init__(self, folder: Path, damage: str) -> None:
        super().__init__(f"checkpoint {folder}: {damage}")
        self.damage = damage


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the manifest of the checkpoint in `folder`.

    Args:
        folder: holds the files.
        content: JSON; ``files`` has by name what `write_verified` returned.
    """
    manifest = {"format": FORMAT_VERSION, "sha256": _checksum(content), **content}
    write_verified(folder / MANIFEST, [(json.dumps(manifest, indent=2) + "\n").encode()])


def verify(folder: Path) -> dict[str, Any]:
    """Read every file of the checkpoint in `folder`; return the content of its manifest.

    Raises:
        DamagedCheckpointError: if a file is missing or not as it was written.
    """
    content = _read(folder)
    damaged = [
        name for name, file in content["files"].items() if not is_intact(folder / name, file)
    ]
    if damaged:
        raise DamagedCheckpointError(folder, f"damaged or missing {', '.join(damaged)}")
    return content


def _read(folder: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
        version, checksum = content.pop("format"), content.pop("sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpointError(folder, f"its manifest is damaged ({error!r})") from error
    if version != FORMAT_VERSION:
        raise DamagedCheckpointError(
            folder, f"format {version!r}, this tribin reads {FORMAT_VERSION}"
        )
    if checksum != _checksum(content):
        raise DamagedCheckpointError(folder, "its manifest is damaged (another checksum)")
    return content


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
