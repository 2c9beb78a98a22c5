"""Layer norm of images against its formula."""

import torch

from tribin.nn import LayerNorm2d


def make_norm(channels: int) -> LayerNorm2d:
    norm = LayerNorm2d(channels)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    return norm


def test_each_pixel_is_normalized_over_its_channels() -> None:
    torch.manual_seed(0)
    norm = make_norm(5).double()
    # Pixels whose channels vary much and pixels whose variance is near the epsilon of 1e-5.
    spread = torch.logspace(-4, 1, 12, dtype=torch.float64).view(1, 1, 3, 4)
    x = 0.3 + spread * torch.randn(2, 5, 3, 4, dtype=torch.float64)
    variance, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
    weight, bias = (p.view(1, 5, 1, 1) for p in (norm.weight, norm.bias))
    expected = (x - mean) / (variance + 1e-5).sqrt() * weight + bias
    torch.testing.assert_close(norm(x), expected, atol=1e-12, rtol=1e-12)


def test_the_result_is_channels_last() -> None:
    x = torch.randn(2, 5, 3, 4)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        y = make_norm(5)(x.contiguous(memory_format=memory_format))
        assert y.is_contiguous(memory_format=torch.channels_last)
