"""What a kernel is timed on: an op at a shape, and how that is written."""

import re
from collections.abc import Collection
from dataclasses import dataclass

from tribin.errors import InputError
from tribin.ops.conv2d_size import check_conv2d_size

OPS = (
    "binary_conv2d_w1a1", "binary_conv2d_w1a1_backward", "binary_conv2d", "binary_conv2d_backward",
    "binary_linear_w1a1", "binary_linear_w1a1_backward", "binary_linear", "binary_linear_backward",
    "packed_conv2d", "packed_linear", "pack_signs",
)  # fmt: skip
"""By the names that they are registered under; `packed_linear` calls `packed_conv2d`."""

OPTIONS = ("signs", "bits", "residual", "gate", "elu", "to_bits")
"""Of packed layers: take the signs of a real x, or take row bits; then what follows the product."""

_NUMBER = re.compile("0|[1-9][0-9]{0,8}")


@dataclass(frozen=True)
class Problem:
    """One call of an op.

    ``str(problem)`` is its shape: ``16x256x16x16:256x3`` for the images, outputs and kernel of a
    convolution, ``256x3x5`` where the kernel is not square, ``4096x1024:512`` for the rows, length
    and outputs of a linear layer, ``16x16x16x256`` for signs to pack. ``,stride=2`` and
    ``,padding=0`` follow where they are not 1 and half the kernel, then a packed layer's options.

    Attributes:
        op: of `OPS`.
        x: sizes of the input of the forward pass: [N, C, H, W], [rows, K], or [..., K] to pack.
        outputs: of the layer; 0 for signs to pack.
        kernel: height and width.
        stride: vertical and horizontal.
        padding: rows and columns of zeros on each side.
        options: of `OPTIONS`.

    Raises:
        ValueError: if the op refuses the shape.
    """

    op: str
    x: tuple[int, ...]
    outputs: int = 0
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    options: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if min(*self.x, *self.kernel, 1 if self.op == "pack_signs" else self.outputs) < 1:
            raise ValueError(f"{self.op}: every size must be at least 1")
        if self.is_conv2d:
            check_conv2d_size(self.op, self.x[2:], self.kernel, self.stride, self.padding)
        if "gate" in self.options and self.outputs % 2:
            raise ValueError(
                f"{self.op}: a gate takes an even number of outputs, not {self.outputs}"
            )
        if {"signs", "bits"} <= self.options:
            raise ValueError(f"{self.op}: x is either signs or bits")

    @property
    def is_conv2d(self) -> bool:
        """Whether x are images."""
        return "conv2d" in self.op

    @property
    def is_packed(self) -> bool:
        """Whether it is a packed layer."""
        return self.op in ("packed_conv2d", "packed_linear")

    @property
    def is_backward(self) -> bool:
        """Whether it is the backward pass of a layer."""
        return self.op.endswith("_backward")

    @property
    def binary_input(self) -> bool:
        """Whether the layer takes the signs of x."""
        return "w1a1" in self.op or not self.options.isdisjoint({"signs", "bits"})

    @property
    def name(self) -> str:
        """The op and the shape."""
        return f"{self.op} {self}"

    def __str__(self) -> str:
        sizes = "x".join(map(str, self.x))
        if self.op == "pack_signs":
            return sizes
        layer = f"{sizes}:{self.outputs}"
        if not self.is_conv2d:
            return ",".join([layer, *self._options()])
        return ",".join([f"{layer}x{_pair_text(self.kernel)}", *self._geometry(), *self._options()])

    def _geometry(self) -> list[str]:
        pairs = {"stride": (self.stride, (1, 1)), "padding": (self.padding, half(self.kernel))}
        return [f"{n}={_pair_text(pair)}" for n, (pair, usual) in pairs.items() if pair != usual]

    def _options(self) -> list[str]:
        return [name for name in OPTIONS if name in self.options]

    @classmethod
    def parse(cls, op: str, text: str) -> "Problem":
        """Read a shape, as ``str(problem)`` writes it.

        Raises:
            InputError: if it is none, or one that the op refuses.
        """
        try:
            return _parse(op, text)
        except ValueError as error:
            raise InputError(f"--shape: {text!r}: {error}") from error


def _parse(op: str, text: str) -> Problem:
    sizes, *words = text.split(",")
    x, colon, layer = sizes.partition(":")
    if op == "pack_signs":
        _expect(not colon and not words, op)
        return Problem(op, _numbers(x, range(1, 9), op))
    is_conv2d = "conv2d" in op
    options = frozenset(word for word in words if "=" not in word)
    pairs = dict(word.split("=", 1) for word in words if "=" in word)
    _expect(len(options) + len(pairs) == len(words), op)
    _expect(options <= set(OPTIONS if op.startswith("packed") else ()), op)
    _expect(pairs.keys() <= set(("stride", "padding") if is_conv2d else ()), op)
    if not is_conv2d:
        (outputs,) = _numbers(layer, (1,), op)
        return Problem(op, _numbers(x, (2,), op), outputs, options=options)
    outputs, *taps = _numbers(layer, (2, 3), op)
    kernel = pair(taps)
    geometry = {"padding": half(kernel)}
    geometry |= {name: pair(_numbers(value, (1, 2), op)) for name, value in pairs.items()}
    return Problem(op, _numbers(x, (4,), op), outputs, kernel, options=options, **geometry)


def _numbers(text: str, counts: Collection[int], op: str) -> tuple[int, ...]:
    words = text.split("x")
    _expect(len(words) in counts and all(map(_NUMBER.fullmatch, words)), op)
    return tuple(map(int, words))


def _expect(condition: bool, op: str) -> None:
    """Raise a ValueError that says how the op's shapes are written unless the condition holds."""
    if condition:
        return
    if op == "pack_signs":
        raise ValueError(f"{op}: a shape is the sizes of x, such as 16x16x16x256")
    form = "ROWSxLENGTH:OUTPUTS, such as 4096x1024:512"
    if "conv2d" in op:
        form = "NxCxHxW:OUTPUTSxKERNEL, such as 16x256x16x16:256x3 or 4x8x9x9:8x3x5,stride=2"
    if op.startswith("packed"):
        form += f", and may end in any of {', '.join(OPTIONS)}"
    raise ValueError(f"{op}: a shape is {form}")


def pair(numbers: Collection[int]) -> tuple[int, int]:
    """Two numbers, or one for both."""
    first, *second = numbers
    return (first, second[0] if second else first)


def half(kernel: tuple[int, int]) -> tuple[int, int]:
    """The padding that keeps the size of an image under an odd kernel."""
    return (kernel[0] // 2, kernel[1] // 2)


def _pair_text(pair: tuple[int, int]) -> str:
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}x{pair[1]}"
