"""Tensors whose names differ in list indices alone, as one: a packed file's index stays small.

``layers.0.weight`` … ``layers.11.weight`` of one shape become ``layers.*.weight`` [12, …].
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import product
from math import prod

import torch
from torch import Tensor

MAX_TENSORS = 65536
"""How many tensors a packed model may have: a few bytes of hostile shape could name billions."""

LIST_INDEX = re.compile("0|[1-9][0-9]{0,4}")
"""A list's index as a component of a name; one of more digits is beyond `MAX_TENSORS`."""


def stack(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stack what lists hold.

    Args:
        tensors: by names without ``*``, on one device.

    Returns:
        For each set of tensors of one shape and dtype whose names differ in list indices alone,
        which are every combination of ranges from 0: one tensor, with ``*`` for the indices in
        its name and the lengths of the ranges before its shape. The other tensors as they are.

    Raises:
        ValueError: if a name holds a ``*``.
    """
    families: defaultdict[str, dict[tuple[int, ...], Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        pattern, indices = _pattern(name)
        families[pattern][indices] = tensor
    stacked = {}
    for pattern, family in families.items():
        lengths = tuple(max(indices) + 1 for indices in zip(*family, strict=True))
        kinds = {(member.shape, member.dtype) for member in family.values()}
        if lengths and len(family) == prod(lengths) and len(kinds) == 1:
            members = torch.stack([family[indices] for indices in _combinations(lengths)])
            stacked[pattern] = members.unflatten(0, lengths)
        else:
            stacked |= {_name(pattern, indices): tensor for indices, tensor in family.items()}
    return stacked


def unstack(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that `stack` was given, as views; contiguous where `tensors` are.

    Raises:
        ValueError: if no tensors can have been stacked so, or if they are more than `MAX_TENSORS`.
    """
    lengths = {name: _lengths(name, tensor) for name, tensor in tensors.items()}
    if sum(map(prod, lengths.values())) > MAX_TENSORS:
        raise ValueError(f"it holds more than {MAX_TENSORS} tensors")
    unstacked: dict[str, Tensor] = {}
    for pattern, tensor in tensors.items():
        for indices in _combinations(lengths[pattern]):
            name = _name(pattern, indices)
            if name in unstacked:
                raise ValueError(f"it holds two tensors {name!r}, one of them stacked")
            unstacked[name] = tensor[indices]
    return unstacked


def _pattern(name: str) -> tuple[str, tuple[int, ...]]:
    """A name with its list indices replaced by ``*``, and the indices."""
    if "*" in name:
        raise ValueError(f"the name of tensor {name!r} holds a '*', which stands for list indices")
    components = name.split(".")
    indices = [int(component) for component in components if LIST_INDEX.fullmatch(component)]
    pattern = ".".join("*" if LIST_INDEX.fullmatch(each) else each for each in components)
    return pattern, tuple(indices)


def _name(pattern: str, indices: tuple[int, ...]) -> str:
    remaining = iter(indices)
    return re.sub(r"\*", lambda _: str(next(remaining)), pattern)


def _lengths(pattern: str, tensor: Tensor) -> tuple[int, ...]:
    """The lengths of the lists behind the ``*`` of a pattern."""
    components = pattern.split(".")
    stars = components.count("*")
    lengths = tuple(tensor.shape[:stars])
    if stars != pattern.count("*") or len(lengths) != stars or 0 in lengths:
        raise ValueError(f"tensor {pattern!r} of shape {list(tensor.shape)} stacks no tensors")
    return lengths


def _combinations(lengths: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    return product(*map(range, lengths))
