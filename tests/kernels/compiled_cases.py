"""Compiles the kernels of the losses for an H100, wherever this runs: the interpreter takes what the compiler refuses.

    python tests/kernels/compiled_cases.py pointwise|ranking

Every launch is made as on a GPU, with tensors that lie on the CPU, and ends when its kernel is compiled.
"""

import itertools
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from boxwright import losses
from boxwright.kernels import chunked, error_driven, fused_ranking
from boxwright.losses import alrp_loss, ap_loss, rank_sort_loss

CLASSES = 80
POINTWISE: list[Callable[..., torch.Tensor]] = [
    losses.sigmoid_focal_loss,
    partial(losses.sigmoid_focal_loss, gamma=0.5, alpha=torch.rand(CLASSES)),
    losses.quality_focal_loss,
    partial(losses.task_aligned_focal_loss, gamma=1.0),
    losses.sigmoid_cross_entropy,
    losses.varifocal_loss,
    losses.matchability_aware_loss,
]
compiled = set()


class Device:
    """What Triton asks of a device before it launches anything."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def pretend() -> None:
    """Take the way of a GPU, up to the launch."""
    run = JITFunction.run

    def compile_only(kernel: JITFunction, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        compiled.add((kernel.fn.__name__, run(kernel, *arguments, grid=grid, warmup=True, **options).hash))

    JITFunction.run = compile_only
    triton.runtime.driver.set_active(Device())
    error_driven._fused = lambda inputs: True
    chunked._fusible = lambda tensor: True


def pointwise() -> None:
    """Every family with labels and with dense targets; the other shapes and options of the kernel with one of them."""
    labels, scores = torch.full((2, 1000), -1), torch.rand(2, 1000)
    for loss, dtype in itertools.product(POINTWISE, (torch.float32, torch.bfloat16)):
        logits = torch.randn(2, 1000, CLASSES, dtype=dtype, requires_grad=True)
        for targets in (labels, torch.zeros(2, 1000, CLASSES)):
            loss(logits, targets, reduction="sum").backward()
    # rows that are no multiple of 16 bytes, one class, and float16, whose gradient is written by the backward pass
    for classes, dtype in ((91, torch.float32), (91, torch.bfloat16), (1, torch.float32), (CLASSES, torch.float16)):
        logits = torch.randn(2, 1000, classes, dtype=dtype, requires_grad=True)
        losses.quality_focal_loss(logits, labels, scores=scores, weight=scores, reduction="sum").backward()


def ranking() -> None:
    differentiate("batch", torch.float32)
    differentiate("class", torch.float32)
    differentiate("batch", torch.bfloat16, delta=0.0)
    differentiate("image", torch.float64)
    fused_ranking.world_size = lambda: 2
    fused_ranking.all_reduce_sum = torch.clone
    torch.distributed.get_rank = lambda: 1
    differentiate("class", torch.float32)


def differentiate(scope: str, dtype: torch.dtype, delta: float | None = None) -> None:
    """Go through all ranking losses, with labels and dense targets."""
    logits = torch.randn(2, 1000, CLASSES, dtype=dtype, requires_grad=True)
    labels, quality, dense = torch.full((2, 1000), -1), torch.rand(2, 1000), torch.zeros(2, 1000, CLASSES)
    options = {"scope": scope} if delta is None else {"scope": scope, "delta": delta}
    for targets, scores in ((labels, quality), (dense, None)):
        ap_loss(logits, targets, **options).backward()
        sum(rank_sort_loss(logits, targets, scores=scores, **options)).backward()
    alrp_loss(logits, labels, quality, **options)[0].backward()


def main(family: str) -> None:
    pretend()
    {"pointwise": pointwise, "ranking": ranking}[family]()
    print(f"{len({name for name, _ in compiled})} kernels compile, in {len(compiled)} variants")


if __name__ == "__main__":
    main(sys.argv[1])
