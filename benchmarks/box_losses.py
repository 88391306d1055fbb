"""Time and memory of the box losses and of pairwise overlaps beside torchvision's, interleaved in one process.

    python benchmarks/box_losses.py

1,000,000 pairs and the distributions of 50,000 boxes forward and backward, 100 x 8,400 overlaps forward. Ratios and
peaks as in `benchmarks/losses.py`; the peak of overlaps is in units of their result.
"""

import argparse
import json
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor
from torchvision import ops

from boxwright import losses
from boxwright.boxes import box_iou
from losses import Run, measure

FUNCTIONS = {
    "IoU": losses.iou_loss,
    "GIoU": losses.giou_loss,
    "DIoU": losses.diou_loss,
    "CIoU": losses.ciou_loss,
    "CIoU, classic": partial(losses.ciou_loss, version="classic"),
    "CIoU, torchvision": partial(losses.ciou_loss, version="torchvision"),
    "EIoU": losses.eiou_loss,
    "SIoU": losses.siou_loss,
    "MPDIoU": losses.mpdiou_loss,
    "Wise-IoU": losses.wise_iou_loss,
    "normalised Wasserstein": losses.normalized_wasserstein_loss,
    "bounded IoU": losses.bounded_iou_loss,
    "L1": losses.l1_loss,
    "smooth L1": losses.smooth_l1_loss,
    "sigma smooth L1": losses.sigma_smooth_l1_loss,
    "balanced L1": losses.balanced_l1_loss,
}
PEERS = {
    "torchvision GIoU": ops.generalized_box_iou_loss,
    "torchvision DIoU": ops.distance_box_iou_loss,
    "torchvision CIoU": ops.complete_box_iou_loss,
}
PairLoss = Callable[[Tensor, Tensor], Tensor]


def pair_losses(device: str) -> tuple[dict[str, PairLoss], dict[str, PairLoss]]:
    """What is called with predictions and targets (n, 4) of a device and adds up: the peers, and ours."""
    peers, ours = (
        {name: partial(loss, reduction="sum") for name, loss in family.items()} for family in (PEERS, FUNCTIONS)
    )
    return peers, ours | {"GHM-R": losses.GHMRLoss(reduction="sum").to(device)}


class Forward:
    """A result whose backward pass costs nothing."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def backward(self) -> None:
        del self.value


def random_boxes(count: int) -> Tensor:
    corner = torch.rand(count, 2) * 600
    return torch.cat([corner, corner + 1 + torch.rand(count, 2) * 150], dim=1)


def pairs(count: int) -> tuple[Tensor, dict[str, Run]]:
    """Overlapping pairs and the calls, the baseline first."""
    targets = random_boxes(count)
    boxes = random_boxes(count).lerp(targets, 0.7).requires_grad_()
    peers, ours = pair_losses("cpu")
    runs: dict[str, Run] = {name: lambda loss=loss: loss(boxes, targets) for name, loss in (peers | ours).items()}
    return boxes, runs


def distributions(count: int, bins: int) -> tuple[Tensor, dict[str, Run]]:
    """Logits (count, 4, bins) and the calls, the baseline, cross-entropy to one bin, first."""
    logits = torch.randn(count, 4, bins, requires_grad=True)
    targets = torch.rand(count, 4) * (bins - 1)
    values = losses.weighting_function(bins - 1, 0.5, 4.0)
    runs = {"cross-entropy": lambda: F.cross_entropy(logits.view(-1, bins), targets.long().view(-1), reduction="sum")}
    runs["distribution focal"] = lambda: losses.distribution_focal_loss(logits, targets, reduction="sum")
    teacher, matched, weight = torch.randn_like(logits), torch.rand(1, count) < 0.5, torch.rand(1, count)
    runs["localisation distillation"] = lambda: losses.localization_distillation_loss(
        logits.unsqueeze(0), teacher.unsqueeze(0), matched, weight=weight
    )
    runs["fine-grained localisation"] = lambda: losses.fine_grained_localization_loss(
        logits, targets - 4, values=values, reduction="sum"
    )
    return logits, runs


def gaussians(count: int) -> tuple[Tensor, dict[str, Run]]:
    """Deltas and log-variances (count, 8) and the calls, the baseline, smooth L1 of the deltas, first."""
    inputs, targets = torch.randn(count, 8, requires_grad=True), torch.randn(count, 4)
    runs = {"torch smooth L1": lambda: F.smooth_l1_loss(inputs[:, :4], targets, reduction="sum")}
    runs["Gaussian"] = lambda: losses.gaussian_loss(inputs, targets, reduction="sum")
    return inputs, runs


def overlaps(objects: int, priors: int) -> tuple[Tensor, dict[str, Run]]:
    """A tensor of the result's size and the calls, the baseline first."""
    a, b = random_boxes(objects), random_boxes(priors)
    peers = {"box_iou": ops.box_iou, "GIoU": ops.generalized_box_iou, "DIoU": ops.distance_box_iou}
    runs: dict[str, Run] = {
        f"torchvision {name}": lambda peer=peer: Forward(peer(a, b)) for name, peer in peers.items()
    }
    for mode in ("iou", "iof", "giou", "diou"):
        runs[f"box_iou, {mode}"] = lambda mode=mode: Forward(box_iou(a, b, mode))
    return torch.empty(objects, priors), runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "box_losses.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    tables = {
        "pairs, forward and backward": measure(*pairs(options.pairs), options.rounds),
        "50,000 x 4 x 17 bins": measure(*distributions(50_000, 17), options.rounds),
        "deltas with variances": measure(*gaussians(options.pairs), options.rounds),
        "100 x 8400 overlaps, forward": measure(*overlaps(100, 8400), 4 * options.rounds),
    }
    for title, rows in tables.items():
        print(f"{title:40} {'ms':>8} {'x torchvision':>14} {'best':>8} {'peak':>8}")
        for row in rows:
            print(f"{row['loss']:40} {row['ms']:8.1f} {row['ratio']:14.3f} {row['best']:8.3f} {row['peak']:8.2f}")
    result = {
        "machine": f"{platform.machine()}, {options.threads} threads",
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "pairs": options.pairs,
        "rounds": options.rounds,
        "tables": tables,
    }
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
