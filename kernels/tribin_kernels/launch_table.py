"""Which configuration a kernel runs with: a committed table, never a timing at a first call.

A table is a JSON file. Its sections are named after a GPU ("NVIDIA H200"), an architecture
("sm_90", "gfx942") or "default", and are searched in this order. A section gives a kernel, named
after its file, a list of entries; the first one whose conditions hold wins, and where none does,
the kernel's Config class has the defaults:

    {"sm_90": {"real_mma": [{"rows_at_most": 32, "config": {"num_warps": 8}}],
               "routes": [{"rows_at_most": 16, "route": "popcount"}, {"route": "bit_mma"}]}}

"routes" says by which kernel W1A1 products run. The file that TRIBIN_LAUNCH_TABLE names comes
before the committed one, launch_table.json; deterministic mode pins the committed one.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch

from tribin_kernels.conv2d_shape import Conv2dShape
from tribin_kernels.target import Target, target_of

TUNABLE = (
    "bit_mma", "int8_mma", "pack_activations", "popcount", "real_mma", "weight_gradient",
)  # fmt: skip
"""The kernels that have a configuration."""

ROUTES = ("bit_mma", "int8_mma", "popcount")
"""The kernels that multiply signs with signs."""

CONDITIONS = ("rows_at_most", "outputs_at_most")

COMMITTED = Path(__file__).with_name("launch_table.json")

Config = TypeVar("Config")


class LaunchTableError(ValueError):
    """A launch table is wrong; the message names the file, the field and what would be right."""


@dataclass(frozen=True)
class Entry:
    """What a list of a table holds.

    Args:
        place: file and field, for messages.
        limits: the sizes, "rows" and "outputs", up to which the entry holds.
        value: a configuration, by field, or a route.
    """

    place: str
    limits: dict[str, int]
    value: Any

    def holds(self, sizes: dict[str, int]) -> bool:
        """Whether no size is over its limit."""
        return all(sizes[size] <= limit for size, limit in self.limits.items())


def choose(config_class: type[Config], device: torch.device, *, rows: int, outputs: int) -> Config:
    """The configuration of a kernel on a device.

    Args:
        config_class: the dataclass of ints beside the kernel; the file's name is the kernel's.
        device: of the tensors.
        rows: of the product, the pixels of a convolution.
        outputs: of the layer.

    Raises:
        LaunchTableError: a table is wrong.
    """
    target, user_table = target_of(device), _user_table()
    return _choose(config_class, target, rows, outputs, user_table)  # type: ignore[arg-type]


def w1a1_route(device: torch.device, shape: Conv2dShape) -> str:
    """The kernel, one of `ROUTES`, that multiplies signs with signs on a device.

    An entry is passed over where its kernel cannot run: bit_mma without the 1-bit tensor core,
    popcount for a convolution that is no linear layer.
    """
    return _route(target_of(device), shape, _user_table())


def entries(kernel: str, target: Target, user_table: str | None = None) -> Iterator[Entry]:
    """The entries for a kernel, or for "routes", on a target, in the order of their precedence."""
    for file in (user_table, str(COMMITTED)):
        table = read_table(file) if file else {}
        for section in (target.device_name, target.label, "default"):
            yield from table.get(section, {}).get(kernel, [])


@cache
def read_table(file: str) -> dict[str, dict[str, list[Entry]]]:
    """Read a table, once in a process: its entries by section and kernel."""
    try:
        table = json.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise LaunchTableError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise LaunchTableError(f"{file} is no JSON file: {error}") from error
    _require(isinstance(table, dict), file, table, "an object of sections")
    return {name: _section(f"{file}: {name}", section) for name, section in table.items()}


@lru_cache(maxsize=4096)
def _choose(
    config_class: type[Config], target: Target, rows: int, outputs: int, user_table: str | None
) -> Config:
    kernel = config_class.__module__.rpartition(".")[2]
    sizes = {"rows": rows, "outputs": outputs}
    for entry in entries(kernel, target, user_table):
        if entry.holds(sizes):
            return _build(config_class, entry)
    return config_class()


@lru_cache(maxsize=4096)
def _route(target: Target, shape: Conv2dShape, user_table: str | None) -> str:
    can_run = {
        "bit_mma": target.has_bit_mma,
        "int8_mma": True,
        "popcount": shape.is_pointwise,
    }
    sizes = {"rows": shape.pixels, "outputs": shape.outputs}
    routes = (e.value for e in entries("routes", target, user_table) if e.holds(sizes))
    return next(route for route in routes if can_run[route])


def _user_table() -> str | None:
    if torch.are_deterministic_algorithms_enabled():
        return None
    return os.environ.get("TRIBIN_LAUNCH_TABLE") or None


def _build(config_class: type[Config], entry: Entry) -> Config:
    names = [field.name for field in fields(config_class)]  # type: ignore[arg-type]
    for name in entry.value:
        _require_one_of(names, f"{entry.place}.config", name)
    try:
        return config_class(**entry.value)
    except ValueError as error:
        raise LaunchTableError(f"{entry.place}.config: {error}") from error


def _section(place: str, section: Any) -> dict[str, list[Entry]]:
    _require(isinstance(section, dict), place, section, "an object of kernels")
    lists = {}
    for kernel, listed in section.items():
        _require_one_of((*TUNABLE, "routes"), place, kernel)
        _require(isinstance(listed, list), f"{place}.{kernel}", listed, "a list of entries")
        read = _route_entry if kernel == "routes" else _config_entry
        lists[kernel] = [read(f"{place}.{kernel}[{i}]", entry) for i, entry in enumerate(listed)]
    return lists


def _config_entry(place: str, entry: Any) -> Entry:
    limits = _limits(place, entry, "config")
    config = entry["config"]
    _require(isinstance(config, dict), f"{place}.config", config, "an object of integers")
    _require_positive(f"{place}.config", config)
    return Entry(place, limits, config)


def _route_entry(place: str, entry: Any) -> Entry:
    limits = _limits(place, entry, "route")
    _require_one_of(ROUTES, f"{place}.route", entry["route"])
    return Entry(place, limits, entry["route"])


def _limits(place: str, entry: Any, value: str) -> dict[str, int]:
    _require(isinstance(entry, dict) and value in entry, place, entry, f"an object with {value!r}")
    for name in entry:
        _require_one_of((*CONDITIONS, value), place, name)
    conditions = {name: entry[name] for name in entry if name != value}
    _require_positive(place, conditions)
    return {name.removesuffix("_at_most"): limit for name, limit in conditions.items()}


def _require_positive(place: str, numbers: dict[str, Any]) -> None:
    for name, number in numbers.items():
        right = type(number) is int and number > 0
        _require(right, f"{place}.{name}", number, "a positive integer")


def _require_one_of(names: Sequence[str], place: str, name: Any) -> None:
    _require(name in names, place, name, f"one of {', '.join(names)}")


def _require(right: bool, place: str, value: Any, wanted: str) -> None:
    if not right:
        raise LaunchTableError(f"{place}: {value!r} is not {wanted}")
