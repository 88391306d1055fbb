"""Two processes that train together must do what one process with the whole batch does."""

import pickle
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import ProcessExitedException, spawn

from boxwright.testing.problems import Problem
from boxwright.testing.subject import Subject, claim

__all__ = ["check_two_processes"]

STEPS, PROCESSES = 2, 2


def check_two_processes(subject: Subject, problem: Problem) -> None:
    """Compare buffers and averaged gradients of two gloo processes with one process on the whole batch.

    Raises:
        AssertionError: a buffer or the gradient differs.
        RuntimeError: the processes cannot import the loss.
    """
    gradient, state = _train(subject, problem)
    with tempfile.TemporaryDirectory() as folder:
        try:
            spawn(_worker, (subject, problem, folder), PROCESSES)
        except (ProcessExitedException, pickle.PicklingError, AttributeError, TypeError) as error:
            raise RuntimeError(
                f"{subject.name}: {PROCESSES} processes could not be started with it. Define it in a file that can be "
                "imported, in which calls stand below `if __name__ == '__main__':`, or pass processes=False"
            ) from error
        halves = [torch.load(Path(folder) / f"{rank}.pt") for rank in range(PROCESSES)]
    for rank, (_, other) in enumerate(halves):
        for name, value in state.items():
            same = torch.allclose(other[name].double(), value.double(), rtol=1e-6, atol=1e-9)
            claim(same, f"{subject.name}: buffer {name!r} of process {rank} is {other[name]}, of one process {value}")
    # data-parallel training averages the gradients
    joined = torch.cat([half for half, _ in halves]) / PROCESSES
    gap = (joined - gradient).abs().max().item()
    claim(gap < 1e-9, f"{subject.name}: the gradient of two processes differs from that of one by {gap:.3g}")


def _train(subject: Subject, problem: Problem) -> tuple[Tensor, dict[str, Any]]:
    loss = subject.fresh()
    for _ in range(STEPS):
        _, gradient = subject.value_and_gradient(problem, loss)
    assert isinstance(loss, torch.nn.Module)
    return gradient, loss.state_dict()


def _worker(rank: int, subject: Subject, problem: Problem, folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "store"), PROCESSES)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=PROCESSES)
    share = len(problem.inputs) // PROCESSES
    half = problem[rank * share : (rank + 1) * share]
    if "normalizer" in half.options:
        # a criterion passes the mean over processes: the global normaliser divided by their number
        half.options["normalizer"] = half.options["normalizer"] / PROCESSES
    torch.save(_train(subject, half), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
