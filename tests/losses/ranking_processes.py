"""One rank of a data-parallel ranking loss; run in a process of its own by test_ranking_processes.py.

`python ranking_processes.py RANK WORLD FOLDER WAY`, where the way is `eager`, `fused` to interpret the Triton kernels
(with TRITON_INTERPRET=1), or `cuda`.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from boxwright.losses import alrp_loss, ap_loss, average_lrp, average_precision, rank_sort_loss


def update(logits: torch.Tensor, labels: torch.Tensor, quality: torch.Tensor) -> dict[str, torch.Tensor]:
    """Losses and gradients of all ranking losses in all scopes, and the metrics."""
    results = {}
    for scope in ("batch", "class", "image"):
        losses = {
            "ap": ap_loss(logits, labels, scope=scope),
            "rank-sort": torch.stack(rank_sort_loss(logits, labels, scores=quality, scope=scope))
            @ logits.new_tensor([1, 2]),
        }
        boxes = quality.clone().requires_grad_()
        classification, localization = alrp_loss(logits, labels, boxes, scope=scope)
        results[f"{scope} boxes"] = torch.autograd.grad(localization, boxes)[0]
        losses |= {"alrp": classification}
        results[f"{scope} AP metric"] = average_precision(logits, labels, scope=scope)
        results[f"{scope} LRP metric"] = average_lrp(logits, labels, quality, scope=scope)
        for name, loss in losses.items():
            (results[f"{scope} {name}"],) = torch.autograd.grad(loss, logits)
            results[f"{scope} {name} loss"] = loss.detach()
    return results


def main(rank: int, world: int, folder: str, way: str) -> None:
    torch.set_num_threads(1)
    if way == "fused":
        sys.path.append(str(Path(__file__).parents[1]))
        from kernels import fused_ranking_cases

        fused_ranking_cases.fuse()
        fused_ranking_cases.fused_ranking.CAPACITY = 100
    dist.init_process_group("gloo", init_method=f"file://{folder}/store{world}", rank=rank, world_size=world)
    *problem, bounds = torch.load(Path(folder) / f"problem{world}.pt")
    mine = slice(bounds[rank], bounds[rank + 1])
    logits, *rest = (part[mine].to("cuda" if way == "cuda" else "cpu") for part in problem)
    results = update(logits.requires_grad_(), *rest)
    torch.save({name: result.cpu() for name, result in results.items()}, Path(folder) / f"{world}-{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
