"""What is measured of a model, against what other parts say of it."""

from dataclasses import replace
from pathlib import Path

import torch

from tribin.comparison.measurement import Settings, measure
from tribin.data import load_images
from tribin.evaluation import evaluate
from tribin.trained_model import load_trained_model

SETTINGS = Settings(images=20, batch_size=8, importance_samples=2, seed=5)


def test_a_run(trained_run: Path) -> None:
    images = load_images("digits").test[:20]
    found = measure(trained_run, images.numpy(), SETTINGS)
    trained = load_trained_model(trained_run, torch.device("cpu"))
    expected = evaluate(trained.model, images, batch_size=8, importance_samples=2, seed=5)
    assert (found.bits_per_dim, found.standard_error) == (
        expected.bits_per_dim, expected.standard_error,
    )  # fmt: skip
    checkpoint = trained_run / "checkpoints" / "1600"
    assert (found.source, found.model) == (str(trained_run), "resnet_vae")
    assert (found.weights, found.images_seen) == ("ema", 1600)
    assert (found.parameters, found.binary_parameters) == (7251, 4608)
    assert found.bytes_on_disk == (checkpoint / "ema.safetensors").stat().st_size
    assert found.evaluated_images_per_second > 0
    assert found.sampled_images_per_second > 0
    assert 0 < found.idle_memory_bytes <= found.peak_memory_bytes
    other = measure(trained_run, images.numpy(), replace(SETTINGS, seed=6))
    assert other.bits_per_dim != found.bits_per_dim
