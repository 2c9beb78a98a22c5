"""Calls of the CPU's packed_conv2d by a given route, and of libraries that are made anew."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tests.kernels.packed_arguments import Case
from torch import Tensor

from tribin_kernels import reference
from tribin_kernels.conv2d_shape import Conv2dShape
from tribin_kernels.cpu import packed_conv2d as cpu
from tribin_kernels.cpu.native import native_library

# Three lines of two pieces each, blocks of outputs that are cut short, a border on every side.
WIDE = Conv2dShape(2, 70, 3, 90, 74, kernel=(3, 5), padding=(1, 2))
POINTWISE = Conv2dShape(3, 70, 5, 7, 74)
STRIDED = Conv2dShape(2, 33, 9, 8, 40, kernel=(4, 3), stride=(3, 2), padding=(2, 3))
SHAPES = {"wide": WIDE, "pointwise": POINTWISE, "strided": STRIDED}


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """The library is made anew, as these variables say."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        native_library.cache_clear()
        yield
    native_library.cache_clear()


def require_library() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        native_library.cache_clear()
        if native_library() is None:
            pytest.skip(str(caught[0].message))


def by_route(route: str, given: tuple[Any, ...]) -> Tensor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "choose_route", lambda *arguments: route)
        return cpu.packed_conv2d(*given)


def check(route: str, given: tuple[Any, ...]) -> None:
    same(by_route(route, given), reference.packed_conv2d(*given))


def same(result: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(result, expected, rtol=0, atol=0, equal_nan=True)
    assert reference.memory_format(result) == reference.memory_format(expected)


def signs_or_bits(**steps: Any) -> Iterator[Case]:
    """Of each shape and binary input."""
    for shape in SHAPES.values():
        for input in ("signs", "bits"):
            yield Case(shape, input, **steps)
