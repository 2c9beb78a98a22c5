"""Packed models: 1-bit weights in one safetensors file (docs/packed_format.md)."""

from tribin.packed.format import PackedFile, PackedFormatError, read_packed
from tribin.packed.model_file import load, restore, save

__all__ = ["PackedFile", "PackedFormatError", "load", "read_packed", "restore", "save"]
