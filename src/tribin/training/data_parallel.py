"""The model in torch's DistributedDataParallel, and the check that its processes agree."""

import hashlib

import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import (
    bf16_compress_hook,
    fp16_compress_hook,
)
from torch.nn.parallel import DistributedDataParallel

from tribin import distributed
from tribin.errors import DisagreementError, InputError
from tribin.models import GenerativeModel
from tribin.recipe import Recipe
from tribin.training.step import Model

COMPRESSION_HOOKS = {"float16": fp16_compress_hook, "bfloat16": bf16_compress_hook}


def check_shareable(recipe: Recipe) -> None:
    """Raise an InputError if there are processes, and they can't train the recipe together."""
    training, processes = recipe.training, distributed.world_size()
    if processes == 1:
        return
    precision = getattr(recipe.model, "precision", None)  # not every model has one
    if precision and precision.normalization == "batch_norm":
        raise InputError(
            "model.precision.normalization batch_norm: each process would take the statistics of "
            "its own images; start one, or train with binary_weight_norm"
        )
    if training.gradient_compression == "bfloat16" and not torch.cuda.is_available():
        raise InputError(
            "training.gradient_compression bfloat16: processes without a GPU can't exchange that; "
            "float16 or none is right"
        )
    if (images := training.batch_size // training.accumulation) < processes:
        raise InputError(
            f"training.batch_size {training.batch_size} in {training.accumulation} micro-batches: "
            f"{images} images can't be shared by {processes} processes; start fewer"
        )


def data_parallel(model: GenerativeModel, recipe: Recipe) -> Model:
    """The model to train; where there are several processes, all take the weights of rank 0."""
    if distributed.world_size() == 1:
        return model
    # Parameters that no gradient reaches: those of the topmost block of a ResNet VAE.
    parallel = DistributedDataParallel(model, find_unused_parameters=True)
    if hook := COMPRESSION_HOOKS.get(recipe.training.gradient_compression):
        parallel.register_comm_hook(None, hook)
    return parallel


def check_agreement(model: nn.Module, images_seen: int) -> None:
    """Compare the processes' weights, bit for bit.

    Raises:
        DisagreementError: if a process's are not those of rank 0.
    """
    if distributed.world_size() == 1:
        return
    first, *others = distributed.gather(digest(model))
    differing = [rank for rank, other in enumerate(others, 1) if other != first]
    if differing:
        ranks = ", ".join(map(str, differing))
        raise DisagreementError(
            f"after {images_seen:,} images the weights of rank {ranks} differ from those of rank "
            "0: stopped before they were saved; resume from the newest checkpoint, and have the "
            "hardware checked if it comes again"
        )


def digest(model: nn.Module) -> str:
    """SHA-256 of the model's tensors, as hexadecimal."""
    checksum = hashlib.sha256()
    for value in model.state_dict().values():
        checksum.update(value.cpu().flatten().view(torch.uint8).numpy())
    return checksum.hexdigest()
