"""What an op runs on CPU and CUDA."""

import torch

from tribin_kernels import binary_conv2d, binary_linear, packed_conv2d, packing

OPS = {
    binary_linear: [
        "binary_linear",
        "binary_linear_backward",
        "binary_linear_w1a1",
        "binary_linear_w1a1_backward",
    ],
    binary_conv2d: [
        "binary_conv2d",
        "binary_conv2d_backward",
        "binary_conv2d_w1a1",
        "binary_conv2d_w1a1_backward",
    ],
    packed_conv2d: ["packed_conv2d"],
    packing: ["pack_signs", "unpack_signs"],
}


def test_every_op_has_its_kernels() -> None:
    import tribin.ops  # noqa: F401

    defined = {name for names in OPS.values() for name in names}
    assert defined == {name for name in dir(torch.ops.tribin) if not name.startswith("_")} - {
        "name"
    }
    for module, names in OPS.items():
        for name in names:
            assert callable(getattr(module, name))
            for device in ("CPU", "CUDA", "Meta"):
                assert torch._C._dispatch_has_kernel_for_dispatch_key(f"tribin::{name}", device)
