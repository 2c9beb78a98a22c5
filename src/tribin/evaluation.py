"""Bits per dimension on a set of images."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from tribin import distributed
from tribin.errors import InputError, NonFiniteError
from tribin.models import GenerativeModel
from tribin.seeding import seed_noise


@dataclass(frozen=True)
class Evaluation:
    """A measured density.

    Attributes:
        bits_per_dim: mean over the images: the evidence lower bound (an upper bound in bits), or
            the tighter importance weighted bound with more than one sample.
        standard_error: of the mean, over the images.
        images: how many.
        importance_samples: draws per image.
    """

    bits_per_dim: float
    standard_error: float
    images: int
    importance_samples: int

    @classmethod
    def of_bits(cls, bits: Tensor, importance_samples: int) -> "Evaluation":
        """The evaluation whose images have these bits/dim, float64 [N]."""
        return cls(
            bits_per_dim=bits.mean().item(),
            standard_error=bits.std().item() / math.sqrt(len(bits)),
            images=len(bits),
            importance_samples=importance_samples,
        )

    @property
    def bound(self) -> str:
        """The name of what was measured."""
        return "ELBO" if self.importance_samples == 1 else f"IW-{self.importance_samples}"

    def of_weights(self, weights: str) -> str:
        """The result for people, with all that it must not be quoted without."""
        return (
            f"{self.bits_per_dim:.4f} ± {self.standard_error:.4f} "
            f"({self.bound}, {self.images:,} images, {weights} weights)"
        )


def evaluate(
    model: GenerativeModel,
    images: Tensor,
    *,
    batch_size: int,
    importance_samples: int = 1,
    seed: int = 0,
) -> Evaluation:
    """Measure the mean density of images; arguments and errors are those of `image_bits`."""
    bits = image_bits(
        model, images, batch_size=batch_size, importance_samples=importance_samples, seed=seed
    )
    return Evaluation.of_bits(bits, importance_samples)


@torch.no_grad()
def image_bits(
    model: GenerativeModel,
    images: Tensor,
    *,
    batch_size: int,
    importance_samples: int = 1,
    seed: int = 0,
    around_batch: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Tensor:
    """Measure the density of each image exactly once, in float32, summed in float64.

    The processes of a distributed run share the batches; the result is that of one process.

    Args:
        model: in the state to measure.
        images: uint8 [N, C, H, W], N at least 2.
        batch_size: images at a time; the noise, and so the last digits, depend on it.
        importance_samples: draws per image, K of the bound of Burda et al. (2016).
        seed: of the noise.
        around_batch: gives what each batch is computed in.

    Returns:
        The bits/dim of each image, float64 [N], on the CPU.

    Raises:
        InputError: if there are fewer than 2 images.
        NonFiniteError: if the density of any image is not finite.
    """
    if len(images) < 2:
        raise InputError(f"{len(images)} images to evaluate; a standard error takes at least 2")
    nats: dict[int, Tensor] = {}
    # The bar shows on a terminal only, and leaves nothing behind.
    rounds = range(0, len(images), batch_size * distributed.world_size())
    hidden = None if distributed.is_first() else True
    for first in tqdm(rounds, desc="evaluating", unit="batches", leave=False, disable=hidden):
        start = first + batch_size * distributed.rank()
        with around_batch():
            if len(batch := images[start : start + batch_size]):
                seed_noise(seed, "evaluation", start)
                nats[start] = _log_mean_weight(model, batch.to(model.device), importance_samples)
    of_all = {start: part for parts in distributed.gather(nats) for start, part in parts.items()}
    bits = model.to_bits_per_dim(-torch.cat([of_all[start] for start in sorted(of_all)]))
    _check_finite(bits)
    return bits


def _log_mean_weight(model: GenerativeModel, images: Tensor, draws: int) -> Tensor:
    """The log of the mean of the importance weights of each image, float64 [N], on the CPU."""
    log_weights = torch.stack([model.log_weight(images) for _ in range(draws)])
    return (log_weights.double().logsumexp(0) - math.log(draws)).cpu()


def _check_finite(bits: Tensor) -> None:
    bad = (~bits.isfinite()).nonzero().flatten()
    if len(bad):
        raise NonFiniteError(
            f"the density of {len(bad):,} of {len(bits):,} images is not finite, "
            f"the first of them image {bad[0]} ({bits[bad[0]]} bits/dim)"
        )
