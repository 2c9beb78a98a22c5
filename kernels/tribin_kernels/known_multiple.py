"""What a kernel knows of a number that is given at run time."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def known_multiple(n, MULTIPLE: tl.constexpr):
    """N, a multiple of MULTIPLE, written so that the compiler knows it."""
    return n // MULTIPLE * MULTIPLE
