"""Compiles the kernels of the ranking losses for an H100, wherever this runs: the interpreter takes what it refuses.

Every launch is made as on a GPU, with tensors that lie on the CPU, and ends when its kernel is compiled.
"""

from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from boxwright.kernels import error_driven, fused_ranking
from boxwright.losses import alrp_loss, ap_loss, rank_sort_loss

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


def differentiate(scope: str, dtype: torch.dtype, delta: float | None = None) -> None:
    """Go through all losses, with labels and dense targets."""
    logits = torch.randn(2, 1000, 80, dtype=dtype, requires_grad=True)
    labels, quality, dense = torch.full((2, 1000), -1), torch.rand(2, 1000), torch.zeros(2, 1000, 80)
    options = {"scope": scope} if delta is None else {"scope": scope, "delta": delta}
    for targets, scores in ((labels, quality), (dense, None)):
        ap_loss(logits, targets, **options).backward()
        sum(rank_sort_loss(logits, targets, scores=scores, **options)).backward()
    alrp_loss(logits, labels, quality, **options)[0].backward()


def main() -> None:
    pretend()
    differentiate("batch", torch.float32)
    differentiate("class", torch.float32)
    differentiate("batch", torch.bfloat16, delta=0.0)
    differentiate("image", torch.float64)
    fused_ranking.world_size = lambda: 2
    fused_ranking.all_reduce_sum = torch.clone
    torch.distributed.get_rank = lambda: 1
    differentiate("class", torch.float32)
    print(f"{len({name for name, _ in compiled})} kernels compile, in {len(compiled)} variants")


if __name__ == "__main__":
    main()
