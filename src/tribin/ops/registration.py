"""Registers an op of the namespace ``tribin`` with its implementations."""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

# Library.define costs less per call than custom_op, and autograd stays outside the op.
_library = torch.library.Library("tribin", "DEF")


def register_op(
    schema: str, reference: Callable[..., Any], fake: Callable[..., Any], *, kernels: str
) -> torch._ops.OpOverload:
    """Define the op of `schema` and return it.

    Args:
        schema: name and signature, such as ``"sign(Tensor x) -> Tensor"``.
        reference: the implementation in plain torch, for CPU tensors, and for CUDA tensors where
            Triton is not installed.
        fake: gives outputs of the right shapes, dtypes and strides without computing them.
        kernels: module of `tribin_kernels` whose function of the op's name is the implementation
            for CUDA tensors. It is imported when the op is first called: Triton takes its time.
    """
    _library.define(schema)
    name = schema.partition("(")[0]
    _library.impl(name, reference, "CPU")
    _library.impl(name, _deferred(kernels, name) if find_spec("triton") else reference, "CUDA")
    torch.library.register_fake(f"tribin::{name}", fake, lib=_library)
    op: torch._ops.OpOverload = getattr(torch.ops.tribin, name).default
    return op


def _deferred(module: str, name: str) -> Callable[..., Any]:
    @cache
    def function() -> Callable[..., Any]:
        implementation: Callable[..., Any] = getattr(import_module(module), name)
        return implementation

    return lambda *arguments: function()(*arguments)
