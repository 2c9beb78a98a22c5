"""Strict YAML: a text becomes plain values that remember the line they were written on.

Scalars follow the core schema of YAML 1.2, so ``2e-5`` is a number and ``no`` is text, where
PyYAML's own loader has it the other way round. Integers may have underscores (``50_000_000``).
Duplicate keys, keys that are not text, anchors, aliases, tags and halves of characters are faults.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from tribin.recipe.faults import Fault, Origin, UnreadableError

Scalar = str | int | float | bool | None
KeyPath = tuple[str, ...]

MAX_DEPTH = 16
MAX_DIGITS = 1000

# No field takes an infinity or NaN, so .inf and .nan are left to be text.
_CORE_SCHEMA = {
    "null": r"|~|null|Null|NULL",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+(_[0-9]+)*|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?",
}
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_TAG = "tag:yaml.org,2002:"
_RESOLVERS = {
    None: [(_TAG + kind, re.compile(rf"(?:{text})\Z")) for kind, text in _CORE_SCHEMA.items()]
}


@dataclass(frozen=True)
class Located:
    """A value, the values inside it, and where each was written."""

    value: "Scalar | tuple[Located, ...] | dict[str, Located]"
    origin: Origin

    def plain(self) -> Any:
        """Return the value as scalars, tuples and dictionaries."""
        match self.value:
            case dict() as mapping:
                return {key: item.plain() for key, item in mapping.items()}
            case tuple() as items:
                return tuple(item.plain() for item in items)
            case scalar:
                return scalar

    def origin_of(self, path: tuple[str | int, ...]) -> Origin:
        """Return the origin of the value at ``path``, or of the innermost value on the way."""
        match self.value, path:
            case (dict() as mapping, (str() as key, *rest)) if key in mapping:
                return mapping[key].origin_of(tuple(rest))
            case (tuple() as items, (int() as index, *rest)) if index < len(items):
                return items[index].origin_of(tuple(rest))
            case _:
                return self.origin

    def without(self, key: str) -> "Located":
        """Return this mapping without ``key``."""
        assert isinstance(self.value, dict)
        return Located({k: v for k, v in self.value.items() if k != key}, self.origin)


def read_yaml(text: str, start: Origin, faults: list[Fault], path: Sequence[str] = ()) -> Located:
    """Read one YAML document; an empty text reads as null.

    Args:
        text: the document.
        start: where its first line is.
        faults: duplicate keys and keys that are not text are appended here.
        path: the keys that lead to the document, if it is a part of a recipe.

    Raises:
        UnreadableError: if the text is not YAML, uses anchors, aliases, tags or deep nesting,
            or has an integer of too many digits or half a character.
    """
    try:
        node = _StrictLoader(text).get_single_node()
        return _Reader(start, faults).locate(node, tuple(path)) if node else Located(None, start)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line if error.problem_mark else 0
        problem = ", ".join(filter(None, (error.context, error.problem)))
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # PyYAML lets the latter two through for an escape that is no character.
        line, problem = 0, str(error).partition("\n")[0]
    raise UnreadableError(start.after(line), ".".join(path), problem)


def write_yaml(data: Any) -> str:
    """Write plain data as YAML, in ASCII, that ``read_yaml`` reads back to the same data."""
    return yaml.dump(data, Dumper=_StrictDumper, sort_keys=False)


class _StrictLoader(yaml.SafeLoader):
    yaml_implicit_resolvers = _RESOLVERS
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if getattr(event, "anchor", None) is not None:
            self._refuse("anchors and aliases (&, *) are not allowed; write the value out", event)
        if getattr(event, "tag", None) is not None:
            self._refuse("tags (!) are not allowed; write a plain value", event)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self._refuse(f"nested more than {MAX_DEPTH} levels deep", event)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        if node.tag == _TAG + "int" and len(node.value) > MAX_DIGITS:
            self._refuse(f"an integer of more than {MAX_DIGITS:,} digits", node)
        if _SURROGATE.search(node.value):
            self._refuse("half a character; write \\U and its eight digits", node)
        return node

    def _refuse(self, problem: str, event: Any) -> None:
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


class _StrictDumper(yaml.SafeDumper):
    yaml_implicit_resolvers = _RESOLVERS

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_inline(self, data: tuple[Any, ...]) -> yaml.Node:
        return self.represent_sequence(_TAG + "seq", data, flow_style=True)


_StrictDumper.add_representer(tuple, _StrictDumper.represent_inline)


@dataclass(frozen=True)
class _Reader:
    """Turns a node tree into located values."""

    start: Origin
    faults: list[Fault]

    def locate(self, node: yaml.Node, path: KeyPath, origin: Origin | None = None) -> Located:
        origin = origin or self.origin(node)
        if isinstance(node, yaml.MappingNode):
            return Located(self.mapping(node, path), origin)
        if isinstance(node, yaml.SequenceNode):
            items = (self.locate(item, (*path, str(i))) for i, item in enumerate(node.value))
            return Located(tuple(items), origin)
        return Located(_scalar(node), origin)

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Located]:
        located: dict[str, Located] = {}
        for key_node, value_node in node.value:
            key, origin = key_node.value, self.origin(key_node)
            if key_node.tag != _TAG + "str":
                self.fault(origin, path, "a key is not text; quote it")
            elif key in located:
                first = located[key].origin
                self.fault(origin, (*path, key), f"duplicate key, first given at {first}")
            else:
                located[key] = self.locate(value_node, (*path, key), origin)
        return located

    def origin(self, node: yaml.Node) -> Origin:
        return self.start.after(node.start_mark.line)

    def fault(self, origin: Origin, path: KeyPath, message: str) -> None:
        self.faults.append(Fault(origin, ".".join(path), message))


def _scalar(node: yaml.Node) -> Scalar:
    text: str = node.value
    match node.tag.removeprefix(_TAG):
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int":
            return int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))
        case "float":
            return float(text)
        case _:
            return text
