"""How many bits the weights and the activations of the residual layers have."""

from dataclasses import dataclass, field
from typing import Literal

Normalization = Literal["binary_weight_norm", "weight_norm", "batch_norm"]


@dataclass(frozen=True)
class Precision:
    """Bits of the residual layers: W32A32, W1A32 or W1A1 (Bird et al., 2021).

    The last two are for comparisons with the paper's choices.

    Raises:
        ValueError: for binary activations on real weights, which no layer implements, and for what
            real weights can't have.
    """

    weights: Literal[1, 32] = 1
    activations: Literal[1, 32] = 1
    layers: Literal["residual", "all"] = field(
        default="residual",
        metadata={
            "description": "which convolutions have such weights; those that are in no residual "
            "layer keep real inputs"
        },
    )
    normalization: Normalization = field(
        default="binary_weight_norm",
        metadata={"description": "of the residual layers with binary weights"},
    )

    def __post_init__(self) -> None:
        if self.weights == 32 and self.activations == 1:
            raise ValueError(
                "precision W32A1 is not implemented: "
                "use W32A32, W1A32 or W1A1 (activations: 32, or weights: 1)"
            )
        if self.weights == 32 and self.layers != "residual":
            raise ValueError("layers: all is for binary weights, and needs weights: 1")
        if self.weights == 32 and self.normalization != "binary_weight_norm":
            raise ValueError(
                f"normalization: {self.normalization} is for binary weights, and needs weights: 1"
            )

    def __str__(self) -> str:
        return f"W{self.weights}A{self.activations}"

    @property
    def all_binary(self) -> bool:
        """Whether the weights around the residual layers are binary as well."""
        return self.layers == "all"
