"""Noise as a pure function of the seed, what it is for, and the position in the run."""

import zlib

import numpy as np
import torch


def seed_noise(seed: int, purpose: str, position: int = 0) -> None:
    """Seed torch's global generators.

    Nothing has to be saved to resume a run: each step, and each batch of an evaluation, seeds its
    own noise.

    Args:
        seed: the run's seed.
        purpose: keeps the noise of different uses apart, such as ``"step"`` or ``"samples"``.
        position: where in the run: images seen, or the index of a batch's first image.
    """
    entropy = [seed, zlib.crc32(purpose.encode()), position]
    state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]))
