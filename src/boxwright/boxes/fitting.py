"""Anchor shapes that fit a data set: k-means by IoU, then refinement by mutation."""

import torch
from torch import Tensor

__all__ = ["anchor_recall", "fit_anchors", "shape_iou"]


def shape_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU (…, N, M) of widths and heights `a` (…, N, 2) and `b` (M, 2) as boxes around one centre."""
    intersection = torch.minimum(a.unsqueeze(-2), b).prod(dim=-1)
    return intersection / (a.prod(dim=-1, keepdim=True) + b.prod(dim=-1) - intersection).clamp(min=1e-9)


def anchor_recall(sizes: Tensor, anchors: Tensor, max_ratio: float = 4.0) -> float:
    """Best possible recall: the share of objects within a factor of some anchor in width and in height.

    Args:
        sizes: (N, 2) widths and heights of objects in pixels of the network's input.
        anchors: (K, 2).
        max_ratio: factor up to which a wh-ratio assigner matches, exclusive.

    >>> anchor_recall(torch.tensor([[10.0, 10.0], [90.0, 10.0]]), torch.tensor([[12.0, 12.0]]))
    0.5
    """
    ratio = sizes.unsqueeze(1) / anchors
    worst = torch.maximum(ratio, 1 / ratio).amax(dim=-1)  # (N, K)
    return (worst < max_ratio).any(dim=1).float().mean().item() if len(sizes) else 1.0


def fit_anchors(sizes: Tensor, count: int, *, steps: int = 1000, seed: int = 0) -> Tensor:
    """Fit anchors to the objects of a data set, so that the mean IoU of an object with its best anchor is large.

    k-means with the distance 1 - IoU (Redmon & Farhadi 2017, arXiv 1612.08242), then `steps` random scalings of the
    anchors, each kept if it raises the mean, as YOLOv5 does. The same seed gives the same anchors.

    Args:
        sizes: (N, 2) widths and heights in pixels of the network's input; those without a finite area are left out.
        count: K, number of anchors.
        steps: mutations; 0 leaves k-means alone.
        seed: of the random choices.

    Returns:
        (K, 2) float32, sorted by area, the smallest first.

    Raises:
        ValueError: there are fewer than `count` objects with a finite area, or `sizes` is not (N, 2).
    """
    if sizes.ndim != 2 or sizes.shape[1] != 2:
        raise ValueError(f"sizes must have shape (N, 2), widths and heights, got {tuple(sizes.shape)}")
    sizes = sizes.detach().float().cpu()
    sizes = sizes[(sizes > 0).all(dim=1) & sizes.prod(dim=1).isfinite()]
    if len(sizes) < count or count < 1:
        raise ValueError(f"count must be between 1 and the {len(sizes)} objects with a finite area, got {count}")
    draw = torch.Generator().manual_seed(seed)
    anchors = _mutate(sizes, _k_means(sizes, count, draw), steps, draw)
    return anchors[anchors.prod(dim=1).argsort(stable=True)]


def _k_means(sizes: Tensor, count: int, draw: torch.Generator) -> Tensor:
    """Lloyd's iterations from spread-out objects (k-means++), until no object changes its cluster."""
    anchors = sizes[torch.randint(len(sizes), (1,), generator=draw, device=draw.device)]
    for _ in range(count - 1):
        distance = 1 - shape_iou(sizes, anchors).amax(dim=1) + 1e-6
        anchors = torch.cat([anchors, sizes[torch.multinomial(distance, 1, generator=draw)]])
    cluster = sizes.new_full((len(sizes),), -1, dtype=torch.int64)
    for _ in range(300):
        nearest = shape_iou(sizes, anchors).argmax(dim=1)
        if torch.equal(nearest, cluster):
            break
        cluster = nearest
        members = torch.bincount(cluster, minlength=count).unsqueeze(1)
        means = torch.zeros_like(anchors).index_add(0, cluster, sizes) / members.clamp(min=1)
        anchors = torch.where(members > 0, means, anchors)
    return anchors


def _mutate(sizes: Tensor, anchors: Tensor, steps: int, draw: torch.Generator) -> Tensor:
    """Scale random sides of the anchors by about 10 %; keep what raises the mean best IoU."""
    best = shape_iou(sizes, anchors).amax(dim=1).mean()
    for _ in range(steps):
        factor = 1 + 0.1 * torch.randn(anchors.shape, generator=draw, dtype=anchors.dtype, device=draw.device)
        changed = torch.rand(anchors.shape, generator=draw, dtype=anchors.dtype, device=draw.device) < 1 / len(anchors)
        trial = torch.where(changed, anchors * factor, anchors)
        fitness = shape_iou(sizes, trial).amax(dim=1).mean()
        if fitness > best:
            anchors, best = trial, fitness
    return anchors
