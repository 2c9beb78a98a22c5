"""A model's configuration as JSON, checked when it is read, without pydantic."""

import operator
from dataclasses import fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

LIMITS = {"ge": operator.ge, "gt": operator.gt, "le": operator.le, "lt": operator.lt}


def config_from_json(config_class: type, values: Any) -> Any:
    """Build a configuration from what `dataclasses.asdict` gave.

    Raises:
        ValueError: if a field is missing, unknown, or of another type or range.
    """
    hints = get_type_hints(config_class)
    if not isinstance(values, dict) or values.keys() != hints.keys():
        raise ValueError(f"{config_class.__name__} has the fields {', '.join(hints)}")
    for field in fields(config_class):
        value, hint = values[field.name], hints[field.name]
        if is_dataclass(hint):
            assert isinstance(hint, type)
            value = config_from_json(hint, value)
        elif not _is_of(value, hint) or not _is_within(value, field.metadata):
            raise ValueError(f"{config_class.__name__}.{field.name} can't be {value!r:.80}")
        values = {**values, field.name: value}
    return config_class(**values)


def _is_of(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(hint))
    return type(value) is hint or (hint is float and type(value) is int)


def _is_within(value: Any, limits: Any) -> bool:
    return all(LIMITS[key](value, limit) for key, limit in limits.items() if key in LIMITS)
