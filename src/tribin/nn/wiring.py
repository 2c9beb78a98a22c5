"""What the convolutions of a residual block are wired with, beyond the paper's block."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Wiring:
    """Skips and activations of a residual block; the defaults are the paper's block."""

    shortcut: Literal["block", "conv"] = field(
        default="block",
        metadata={"description": "what a skip goes around: the block, or each convolution in it"},
    )
    prelu: bool = field(
        default=False,
        metadata={"description": "a PReLU with learned slopes follows the convolutions"},
    )


PAPER = Wiring()
