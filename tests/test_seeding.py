"""Noise is a function of seed, purpose and position, and of nothing else."""

import subprocess
import sys

import torch

from tribin.seeding import seed_noise


def draw(*arguments: object) -> float:
    seed_noise(*arguments)  # type: ignore[arg-type]
    return torch.rand((), dtype=torch.float64).item()


def test_the_same_noise_for_the_same_place_and_other_noise_elsewhere() -> None:
    places = [
        (seed, purpose, position)
        for seed in (0, 1, 2**32 - 1)
        for purpose in ("step", "samples")
        for position in (0, 1, 2**40)
    ]
    noise = {place: draw(*place) for place in places}
    assert len(set(noise.values())) == len(places)
    assert noise == {place: draw(*place) for place in reversed(places)}


def test_another_process_draws_the_same() -> None:
    """Python's own hash of a string would differ from process to process."""
    code = (
        "import torch; from tribin.seeding import seed_noise; seed_noise(3, 'step', 128)\n"
        "print(torch.rand((), dtype=torch.float64).item())"
    )
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert float(result.stdout) == draw(3, "step", 128)
