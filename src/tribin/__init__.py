"""tribin: deep generative models with 1-bit weights."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tribin.nn import pack
    from tribin.packed import PackedFormatError, load, save

__all__ = ["PackedFormatError", "load", "pack", "save"]

# Imported when they are used: `tribin --help` needs no torch.
_MODULES = {
    "pack": "tribin.nn",
    "save": "tribin.packed",
    "load": "tribin.packed",
    "PackedFormatError": "tribin.packed",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
