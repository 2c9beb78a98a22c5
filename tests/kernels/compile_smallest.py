"""Compile every kernel that the ops launch on tensors of one element or few, for one GPU.

Triton makes constants of integers equal to 1, so small tensors compile other code than large ones.
A process of its own, as the tests interpret kernels.
"""

import json
from dataclasses import asdict

import torch

from tribin_kernels import binary_conv2d, binary_linear, packing
from tribin_kernels.inspect.compile import compile_launch
from tribin_kernels.launch import record
from tribin_kernels.target import Target, assume


def ones(*shape: int) -> torch.Tensor:
    return torch.ones(shape, device="meta")


def linear() -> None:
    x, latent_weight, gain = ones(1, 1), ones(1, 1), ones(1)
    y = binary_linear.binary_linear(x, latent_weight, gain, gain)
    binary_linear.binary_linear_backward(y, x, latent_weight, gain)
    y, signs, mask = binary_linear.binary_linear_w1a1(x, latent_weight, gain, gain)
    binary_linear.binary_linear_w1a1_backward(y, signs, mask, latent_weight, gain)
    packing.unpack_signs(packing.pack_signs(x), 1, torch.float32)


def conv2d() -> None:
    x, latent_weight, gain, geometry = ones(1, 3, 5, 5), ones(1, 3, 3, 3), ones(1), ([2, 2], [0, 0])
    y = binary_conv2d.binary_conv2d(x, latent_weight, gain, None, *geometry)
    binary_conv2d.binary_conv2d_backward(y, x, latent_weight, gain, *geometry)
    y, signs, mask = binary_conv2d.binary_conv2d_w1a1(x, latent_weight, gain, None, *geometry)
    binary_conv2d.binary_conv2d_w1a1_backward(y, signs, mask, latent_weight, gain, *geometry)


if __name__ == "__main__":
    target = Target("cuda", 90)
    with assume(target), record() as launches:
        linear()
        conv2d()
    print(json.dumps([asdict(compile_launch(launch, target)) for launch in launches]))
