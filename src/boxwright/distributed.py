"""Sums and means over the processes of a data-parallel run; without a process group each is the identity."""

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["all_reduce_sum", "is_first", "mean_over_processes", "world_size"]


def world_size() -> int:
    """Number of processes that train together (1 without a process group)."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this is the process that writes files for all."""
    return world_size() == 1 or dist.get_rank() == 0


def all_reduce_sum(value: Tensor) -> Tensor:
    """Sum of a detached tensor over all processes; every process must call it, in the same order."""
    if world_size() == 1:
        return value.detach()
    total = value.detach().clone()
    dist.all_reduce(total)
    return total


def mean_over_processes(value: Tensor) -> Tensor:
    """Mean of a detached tensor over all processes.

    Dividing a local sum by this mean and letting data-parallel training average the gradients gives the gradient of
    the global sum over the global total: R processes optimise what one process with the whole batch would.
    """
    return all_reduce_sum(value.to(torch.promote_types(value.dtype, torch.float32))) / world_size()
