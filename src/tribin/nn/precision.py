"""How many bits the weights and the activations of the residual layers have."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Precision:
    """Bits of the residual layers: W32A32, W1A32 or W1A1 (Bird et al., 2021).

    Raises:
        ValueError: for binary activations on real weights, which no layer implements.
    """

    weights: Literal[1, 32] = 1
    activations: Literal[1, 32] = 1

    def __post_init__(self) -> None:
        if self.weights == 32 and self.activations == 1:
            raise ValueError(
                "precision W32A1 is not implemented: "
                "use W32A32, W1A32 or W1A1 (activations: 32, or weights: 1)"
            )

    def __str__(self) -> str:
        return f"W{self.weights}A{self.activations}"
