"""Binarize a classifier written in plain torch, fine-tune it, and ship it as 1-bit weights.

    python examples/binarize_classifier.py

It learns handwritten digits and ends with a table of accuracy, bytes and speed. The first and the
last layer stay real, as is usual: they are small, and neither pixels nor logits are signs.
"""

import copy
import statistics
import time
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset

import tribin
from tribin.data.splits import open_splits
from tribin.nn import BinarizationReport, binarize, clip_after_step


def block(inputs: int, outputs: int) -> nn.Sequential:
    """A convolution, normalized so that the next layer finds both signs; a ReLU leaves only one."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.Hardtanh()
    )


class Classifier(nn.Module):
    """Images [N, 1, 8, 8] to logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = block(1, 64)
        self.trunk = nn.Sequential(
            block(64, 64), nn.MaxPool2d(2), block(64, 128), block(128, 128), nn.AvgPool2d(4)
        )
        self.head = nn.Linear(128, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Apply the network."""
        return self.head(self.trunk(self.stem(images)).flatten(1))


def binarize_trunk(model: Classifier) -> BinarizationReport:
    """Give the convolutions of the trunk 1-bit weights and 1-bit input."""
    return binarize(model, lambda name, layer: name.startswith("trunk."), binary_input=True)


def decode(split: Dataset) -> tuple[Tensor, Tensor]:
    """Images in [−1, 1], [N, 1, 8, 8], and their labels, [N]; pixels have the values 0 to 16."""
    images = torch.from_numpy(np.stack([np.asarray(image) for image in split["image"]]))
    return images.unsqueeze(1) / 8 - 1, torch.tensor(split["label"])


def train(model: nn.Module, optimizer: Optimizer, data: TensorDataset, epochs: int) -> None:
    """Minimize the cross entropy with a learning rate that falls to 0."""
    schedule = CosineAnnealingLR(optimizer, epochs)
    model.train()
    for _ in range(epochs):
        for images, labels in DataLoader(data, batch_size=100, shuffle=True):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
        schedule.step()
    model.eval()


@torch.inference_mode()
def accuracy(model: nn.Module, data: TensorDataset) -> float:
    """The share of images whose largest logit is that of their label."""
    images, labels = data.tensors
    return (model(images).argmax(1) == labels).double().mean().item()


@torch.inference_mode()
def images_per_second(models: list[nn.Module], images: Tensor, rounds: int = 20) -> list[float]:
    """Medians over rounds in which the models take turns, after three rounds to warm up."""
    rates: list[list[float]] = [[] for _ in models]
    for _ in range(3 + rounds):
        for model, of_model in zip(models, rates, strict=True):
            start = time.perf_counter()
            model(images)
            of_model.append(len(images) / (time.perf_counter() - start))
    return [statistics.median(of_model[3:]) for of_model in rates]


def main(output: Path, epochs: int = 4, binary_epochs: int = 6) -> dict[str, float]:
    """Train, binarize, fine-tune, save and load; print a table and return the accuracies."""
    torch.manual_seed(0)
    training, test = (TensorDataset(*decode(split)) for split in open_splits("digits", None)[:2])

    model = Classifier()
    train(model, Adam(model.parameters(), lr=3e-3), training, epochs)
    real = copy.deepcopy(model)

    print(binarize_trunk(model))
    optimizer = Adam(model.parameters(), lr=3e-3)  # made now: the binary layers' parameters are new
    clip_after_step(optimizer, model)
    train(model, optimizer, training, binary_epochs)

    tribin.save(model, output)
    skeleton = Classifier()
    binarize_trunk(skeleton)
    packed = tribin.load(output, skeleton)
    images = test.tensors[0]
    with torch.inference_mode():
        torch.testing.assert_close(packed(images), model(images))

    models = {"float": real, "binarized": model, "packed": packed}
    accuracies = {name: accuracy(each, test) for name, each in models.items()}
    sizes = [state_dict_bytes(real), state_dict_bytes(model), output.stat().st_size]
    speeds = images_per_second(list(models.values()), images)
    print(f"{'':10}{'accuracy':>10}{'bytes':>12}{'images/s':>12}")
    for (name, share), size, speed in zip(accuracies.items(), sizes, speeds, strict=True):
        print(f"{name:10}{share:>10.1%}{size:>12,}{speed:>12,.0f}")
    return accuracies


def state_dict_bytes(model: nn.Module) -> int:
    """The size of the file that torch.save writes."""
    file = BytesIO()
    torch.save(model.state_dict(), file)
    return len(file.getvalue())


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        main(Path(folder) / "classifier.safetensors")
