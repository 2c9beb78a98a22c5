"""The dtypes of activations and gradients that the kernels take."""

import torch

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Every other dtype is left to the reference."""
