"""JSON that every parser reads: non-finite numbers as strings."""

import json
import math
from collections.abc import Mapping
from typing import Any, cast

Scalar = float | int | str
"""What a metric may be."""

NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""The strings that stand for the floats JSON has no number for."""


def dump_scalars(record: Mapping[str, Scalar], indent: int | None = None) -> str:
    """Write a flat record as strict JSON, its keys in their order.

    ``nan``, ``inf`` and ``-inf`` become the strings ``"NaN"``, ``"Infinity"``, ``"-Infinity"``,
    which ``float()`` reads in Python and ``Number()`` in JavaScript.
    """
    strict = {name: _strict(value) for name, value in record.items()}
    return json.dumps(strict, indent=indent, allow_nan=False)


def load_scalars(text: str | bytes) -> dict[str, Scalar]:
    """Read what `dump_scalars` wrote; the three strings above come back as floats.

    Raises:
        ValueError: ``text`` is not a JSON object.
    """
    record = json.loads(text)
    if not isinstance(record, dict):
        raise ValueError(f"expected a JSON object, got {type(record).__name__}")
    return {name: _loose(value) for name, value in record.items()}


def _strict(value: Scalar) -> Scalar:
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _loose(value: Any) -> Scalar:
    return cast(Scalar, NON_FINITE.get(value, value) if isinstance(value, str) else value)
