"""Registers an op of the namespace ``tribin`` with its implementations."""

from collections.abc import Callable
from typing import Any

import torch

# Library.define costs less per call than custom_op, and autograd stays outside the op.
_library = torch.library.Library("tribin", "DEF")


def register_op(
    schema: str, reference: Callable[..., Any], fake: Callable[..., Any]
) -> torch._ops.OpOverload:
    """Define the op of `schema` and return it.

    Args:
        schema: name and signature, such as ``"sign(Tensor x) -> Tensor"``.
        reference: the implementation in plain torch, for CPU and CUDA tensors.
        fake: gives outputs of the right shapes, dtypes and strides without computing them.
    """
    _library.define(schema)
    name = schema.partition("(")[0]
    for device in ("CPU", "CUDA"):
        _library.impl(name, reference, device)
    torch.library.register_fake(f"tribin::{name}", fake, lib=_library)
    op: torch._ops.OpOverload = getattr(torch.ops.tribin, name).default
    return op
