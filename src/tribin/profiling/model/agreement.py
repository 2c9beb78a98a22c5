"""Whether a packed model gives what the one does that it was packed from."""

from collections.abc import Mapping

import torch

from tribin.models import GenerativeModel
from tribin.profiling.model.arms import FLOAT, FOLDED, PACKED, TRAINED, random_images
from tribin.profiling.wrong_result import WrongResultError

TWINS = {FOLDED: FLOAT, PACKED: TRAINED}
"""Which arm is packed from which."""

IMAGES = 4
BITS_PER_DIM_TOLERANCE = 1e-4
"""Of one density on the same noise. A CPU gives the same bits. Rounding that turns a few signs, as
on a GPU, is worth less: 2e-5 if the real weights of the CIFAR-10 VAE change by a millionth."""


@torch.inference_mode()
def check_twins(arms: Mapping[str, GenerativeModel]) -> None:
    """Compare the density of each packed arm with that of the arm it is packed from.

    Raises:
        WrongResultError: if one is off.
    """
    for twin, original in TWINS.items():
        if twin in arms and original in arms:
            images = random_images(arms[original], IMAGES)
            difference = _bits_per_dim(arms[twin], images) - _bits_per_dim(arms[original], images)
            if not abs(difference) <= BITS_PER_DIM_TOLERANCE:  # it may be NaN
                raise WrongResultError(
                    f"the density of {twin!r} differs from that of {original!r} by "
                    f"{difference:.3g} bits/dim"
                )


def _bits_per_dim(model: GenerativeModel, images: torch.Tensor) -> float:
    """The mean of one draw for each image."""
    torch.manual_seed(0)
    return model.to_bits_per_dim(-model.log_weight(images)).mean().item()
