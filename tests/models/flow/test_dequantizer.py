"""The dequantizer: what its context network reads, and where its noise lies."""

import pytest
import torch
from tests.models.flow.blocks import LEVELS, build, draw
from torch import Tensor, nn

from tribin.models.flow import Chain, Dequantizer, Sigmoid


class Spy(nn.Module):
    """Keeps what it is given, and gives it on."""

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return x


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_the_context_network_reads_the_images_columns_within_half_of_0(direction: str) -> None:
    dequantizer = Dequantizer(Spy(), Chain(sigmoid=Sigmoid()), LEVELS)
    images = torch.randint(0, LEVELS, (2, 3, 4, 6)).float()
    images[0, 0, 0, :2] = torch.tensor([0, LEVELS])
    getattr(dequantizer, direction)(torch.rand_like(images), images)
    seen = dequantizer.context_network.seen
    columns = torch.cat((images[..., 0::2], images[..., 1::2]), dim=1)
    torch.testing.assert_close(seen, columns / LEVELS - 0.5)
    assert (seen.min(), seen.max()) == (-0.5, 0.5)


def test_the_noise_lies_between_0_and_1_and_depends_on_the_image() -> None:
    flow = build("dequantizer_W1A1")
    gaussian, _, images = draw("dequantizer_W1A1", flow)
    noise, _ = flow(gaussian, images)
    assert noise.shape == gaussian.shape
    assert 0 < noise.min() < noise.max() < 1
    assert not torch.equal(flow(gaussian, images.flip(0))[0], noise)


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_a_dequantizer_without_the_image_is_refused(direction: str) -> None:
    dequantizer = Dequantizer(nn.Identity(), Sigmoid(), LEVELS)
    with pytest.raises(TypeError, match="needs the image"):
        getattr(dequantizer, direction)(torch.rand(2, 1, 2, 2))
