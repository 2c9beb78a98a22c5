"""What a forward pass keeps for the backward pass, layer by layer."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from tribin.running_module import RunningModule


@dataclass(frozen=True)
class SavedActivations:
    """What one module keeps.

    Attributes:
        name: of the module; ``""`` for the model itself.
        kind: the module's class.
        bytes: of the tensors that it saves, without what its own modules save.
    """

    name: str
    kind: str
    bytes: int


def saved_activations(model: nn.Module, run: Callable[[], object]) -> list[SavedActivations]:
    """Add up the storages that autograd saves in a forward pass, each once.

    A tensor that several modules save counts for the first. Parameters and buffers, which are kept
    in any case, don't count; what a layer computes from them, such as a normalized weight, does.

    Args:
        model: whose modules to tell apart.
        run: runs it, with gradients.

    Returns:
        The modules that save something, in the order of the model.
    """
    permanent = {_storage(x).data_ptr() for x in chain(model.parameters(), model.buffers())}
    saved: dict[int, torch.UntypedStorage] = {}  # kept, so that no address is used again
    counts: Counter[str] = Counter()

    def save(x: Tensor) -> Tensor:
        storage = _storage(x)
        address = storage.data_ptr()
        if address not in permanent and address not in saved:
            saved[address] = storage
            counts[running.name] += storage.nbytes()
        return x

    with RunningModule(model) as running, torch.autograd.graph.saved_tensors_hooks(save, _same):
        run()
    return [
        SavedActivations(name, type(module).__name__, counts[name])
        for name, module in model.named_modules()
        if counts[name]
    ]


def _storage(x: Tensor) -> torch.UntypedStorage:
    return x.untyped_storage()


def _same(x: Tensor) -> Tensor:
    return x
