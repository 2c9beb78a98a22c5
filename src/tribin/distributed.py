"""The processes of a distributed run: as many as ``torchrun`` started, or this one alone."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store

from tribin.errors import InputError

Result = TypeVar("Result")

_rank = 0  # stays when the group is left: what is said of an error is said after it


@contextmanager
def process_group() -> Iterator[None]:
    """Inside, the processes that ``torchrun`` started know each other.

    On GPUs each takes the one of its rank on the host, and tensors there go through NCCL; what is
    on the CPU goes through gloo.

    Raises:
        InputError: if a host has fewer GPUs than processes, or processes that ``torchrun`` starts
            again could not find each other.
    """
    global _rank
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    backend = "cpu:gloo"
    if torch.cuda.is_available():
        _take_gpu()
        backend += ",cuda:nccl"
    dist.init_process_group(
        backend,
        store=_store(),
        world_size=int(os.environ["WORLD_SIZE"]),
        rank=int(os.environ["RANK"]),
    )
    _rank = dist.get_rank()
    try:
        yield
    finally:  # gloo aborts a process that ends within its group when another has left
        dist.destroy_process_group()


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is; the one of rank 0 alone writes and speaks."""
    return _rank


def is_first() -> bool:
    """Whether this process has rank 0."""
    return rank() == 0


def restarts_by_itself() -> bool:
    """Whether ``torchrun`` starts a run again of which a process died (``--max-restarts``)."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0


def on_first(action: Callable[[], Result]) -> Result:
    """Let the process of rank 0 act; all get what it returned, which can be pickled.

    Raises:
        Exception: what the action raised, in all processes.
    """
    if world_size() == 1:
        return action()
    outcome: list[tuple[Result | None, Exception | None]] = [(None, None)]
    if is_first():
        try:
            outcome = [(action(), None)]
        except Exception as error:  # the others, which wait, are told
            outcome = [(None, error)]
    dist.broadcast_object_list(outcome)
    [(result, failure)] = outcome
    if failure is not None:
        wait_for_all()  # none leaves while another still hears of it
        raise failure
    return result  # type: ignore[return-value]


@contextmanager
def first_of_each_host_first() -> Iterator[None]:
    """One process of each host goes before its others, which find what it cached."""
    if world_size() == 1:
        yield
        return
    if _local_rank():
        wait_for_all()
    try:
        yield
    finally:
        if not _local_rank():
            wait_for_all()


def wait_for_all() -> None:
    """Return when all processes are here."""
    maximum(0)


def gather(value: Result) -> list[Result]:
    """What each process gives, by rank; it can be pickled."""
    if world_size() == 1:
        return [value]
    values: list[Result | None] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def maximum(number: int) -> int:
    """The largest of the processes' numbers."""
    if world_size() == 1:
        return number
    largest = torch.tensor(number)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of the processes' tensors, of one shape and dtype; without gradient."""
    if world_size() == 1:
        return values
    values = values.detach().clone()
    dist.all_reduce(values)
    return values


def _store() -> Store | None:
    """Where the processes leave their addresses; None for torch's default.

    That is torchrun's own store, where a second start would find the addresses of the first. They
    are kept apart by torchrun's count of starts, which several hosts may not agree on.
    """
    if not restarts_by_itself() or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    if os.environ["GROUP_WORLD_SIZE"] != "1":
        raise InputError(
            "--max-restarts on several hosts takes --rdzv-backend=c10d, and "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in the environment of torchrun"
        )
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(*address)  # type: ignore[attr-defined]
    return PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)


def _take_gpu() -> None:
    gpus = torch.cuda.device_count()
    if _local_rank() >= gpus:
        raise InputError(
            f"--nproc-per-node {os.environ['LOCAL_WORLD_SIZE']}: this host has {gpus} GPUs, and "
            "each process takes one"
        )
    torch.cuda.set_device(_local_rank())


def _local_rank() -> int:
    return int(os.environ["LOCAL_RANK"])
