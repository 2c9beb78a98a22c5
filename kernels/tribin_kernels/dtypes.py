"""The dtypes of activations and gradients that the kernels take."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Every other dtype is left to the reference."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def or_else(
    reference: Callable[Arguments, Result],
) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Run `reference` instead where the kernels do not take the dtype of the first argument."""

    def decorate(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        @wraps(function)
        def choose(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
            first = arguments[0]
            assert isinstance(first, Tensor)
            run = function if first.dtype in KERNEL_DTYPES else reference
            return run(*arguments, **named)

        return choose

    return decorate
