"""The published assigners as they were published: one image at a time, over a dense matrix of objects and priors.

Transcribed from the definitions in the golden data's README, in float32. Tests hold ours against them on random scenes;
benchmarks/assigners.py times them as peers (with EXACT_TIES off, as the originals take any of equal values).
"""

from typing import Any

import torch
from torch import Tensor

from boxwright.assigners.dynamic_k import probability
from boxwright.assigners.task_aligned import power
from boxwright.structures import Assignment, Predictions, Priors, Targets

EXACT_TIES = True


def iou_matrix(a: Tensor, b: Tensor, offset: float = 0.0) -> Tensor:
    low, high = torch.maximum(a[:, None, :2], b[:, :2]), torch.minimum(a[:, None, 2:], b[:, 2:])
    width, height = (high - low + offset).clamp(min=0).unbind(-1)
    area_a, area_b = ((x[:, 2] - x[:, 0] + offset) * (x[:, 3] - x[:, 1] + offset) for x in (a, b))
    shared = width * height
    return shared / (area_a[:, None] + area_b - shared).clamp(min=1e-6)


def best(values: Tensor, k: int, largest: bool) -> Tensor:
    """Indices of the k best rows of (N, G)."""
    if EXACT_TIES:
        return values.sort(dim=0, descending=largest, stable=True).indices[:k]
    return values.topk(min(k, len(values)), dim=0, largest=largest).indices


def margin_matrix(centers: Tensor, boxes: Tensor) -> Tensor:
    x, y = centers[:, 0, None], centers[:, 1, None]
    return torch.stack([x - boxes[:, 0], y - boxes[:, 1], boxes[:, 2] - x, boxes[:, 3] - y]).amin(0)


def strongest(quality: Tensor, chosen: Tensor) -> Tensor:
    """Index of the chosen object with the largest quality for every prior, -1 where none: (L, G) to (L,)."""
    value, index = torch.where(chosen, quality, -torch.inf).max(1)
    return torch.where(value > -torch.inf, index, -1)


def max_iou(
    boxes: Tensor,
    priors: Priors,
    positive: float = 0.5,
    negative: float = 0.4,
    floor: float = 0.0,
    least: float = 0.0,
    low_quality: str = "all",
    keep_argmax: bool = False,
    offset: float = 0.0,
    margin: float | None = None,
) -> Tensor:
    iou = iou_matrix(boxes, priors.boxes, offset)  # (G, L)
    overlap, owner = iou.max(0)
    index = torch.full_like(owner, -2)
    index[(overlap >= floor) & (overlap < negative)] = -1
    index[overlap >= positive] = owner[overlap >= positive]
    for number, best_of_object in enumerate(iou.amax(1)):
        if low_quality == "none" or best_of_object <= 0 or best_of_object < least:
            continue
        claimed = (iou[number] == best_of_object).nonzero()[:, 0]
        claimed = claimed[:1] if low_quality == "first" else claimed
        index[claimed] = owner[claimed] if keep_argmax else number
    for prior, number in enumerate(index.tolist()):
        if margin is not None and number >= 0 and margin_matrix(priors.centers, boxes)[prior, number] <= margin:
            index[prior] = -2
    return index


def atss(
    boxes: Tensor,
    priors: Priors,
    topk: int = 9,
    per_prior: bool = False,
    offset: float = 0.0,
    paddle: bool = False,
    force: bool = False,
) -> Tensor:
    """As mmdetection; `per_prior` and `offset` make it the original, `paddle` PaddleDetection."""
    iou = iou_matrix(priors.boxes, boxes, offset)  # (L, G)
    distance = (priors.centers[:, None] - (boxes[:, :2] + boxes[:, 2:]) / 2).square().sum(-1)
    candidates, start = [], 0
    for level in priors.levels:
        count = topk * level.per_cell if per_prior else topk
        candidates.append(best(distance[start : start + level.size], count, largest=False) + start)
        start += level.size
    candidate = torch.cat(candidates)  # (K, G)
    near = iou.gather(0, candidate).T.contiguous()
    threshold = near.mean(1) + near.std(1)
    chosen = torch.zeros_like(iou, dtype=torch.bool).scatter(0, candidate, True)
    reached = iou > threshold if paddle else iou >= threshold
    chosen &= reached & (margin_matrix(priors.centers, boxes) > (1e-9 if paddle else 0.01))
    index = strongest(iou, chosen)
    if paddle:
        several = chosen.sum(1) > 1
        index[several] = iou[several].argmax(1)
    if force:
        overlap, prior = iou.max(0)
        claims = torch.bincount(prior[overlap > 0], minlength=len(priors))
        for number in range(len(boxes)):
            if overlap[number] > 0 and claims[prior[number]] == 1:
                index[prior[number]] = number
    return index


def topk_iou(boxes: Tensor, priors: Priors, topk: int = 9) -> Tensor:
    """TOPK of the original ATSS code: no threshold, candidates of all levels together."""
    iou = iou_matrix(priors.boxes, boxes, offset=1.0)  # (L, G)
    distance = (priors.centers[:, None] - (boxes[:, :2] + boxes[:, 2:]) / 2).square().sum(-1).sqrt()
    rank = iou - distance / distance.max() / 1000
    chosen = torch.zeros_like(iou, dtype=torch.bool).scatter(0, best(rank, topk, largest=True), True)
    return strongest(iou, chosen & (margin_matrix(priors.centers, boxes) > 0.01))


def fcos(boxes: Tensor, priors: Priors, bounds: tuple[float, ...] = (64.0, 128.0, 256.0, 512.0)) -> Tensor:
    index = torch.full((len(priors),), -1)
    place = torch.repeat_interleave(
        torch.arange(len(priors.levels)), torch.tensor([level.size for level in priors.levels])
    )
    for prior, ((x, y), level) in enumerate(zip(priors.centers.tolist(), place.tolist(), strict=True)):
        fitting = []
        for number, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
            sides = (x - x1, y - y1, x2 - x, y2 - y)
            low, high = (0.0, *bounds)[level], (*bounds, float("inf"))[level]
            high = float("inf") if level == len(priors.levels) - 1 else high
            if min(sides) > 0.01 and low <= max(sides) <= high:
                fitting.append(((x2 - x1) * (y2 - y1), number))
        index[prior] = min(fitting)[1] if fitting else -1
    return index


def ciou_matrix(a: Tensor, b: Tensor) -> Tensor:
    """Zheng et al. 2020, arXiv:1911.08287, clamped at 0, as ultralytics computes it."""
    iou = iou_matrix(a, b)
    hull = torch.maximum(a[:, None, 2:], b[:, 2:]) - torch.minimum(a[:, None, :2], b[:, :2])
    apart = ((a[:, None, :2] + a[:, None, 2:]) - (b[:, :2] + b[:, 2:])) / 2
    angle_a, angle_b = (torch.atan((x[:, 2] - x[:, 0]) / (x[:, 3] - x[:, 1] + 1e-7)) for x in (a, b))
    aspect = 4 / torch.pi**2 * (angle_b - angle_a[:, None]) ** 2
    distance = apart.square().sum(-1) / hull.square().sum(-1)
    return (iou - distance - aspect**2 / (aspect - iou + 1 + 1e-7)).clamp(min=0)


def dual_many(*arguments: Tensor, topk: int = 10) -> tuple[Tensor, Tensor]:
    return task_aligned(*arguments, topk=topk, alpha=0.5, eps=1e-9, margin=1e-9, ultralytics=True)


def dual_one(*arguments: Tensor) -> tuple[Tensor, Tensor]:
    return dual_many(*arguments, topk=1)


def task_aligned(
    boxes: Tensor,
    labels: Tensor,
    priors: Priors,
    logits: Tensor,
    predicted: Tensor,
    topk: int = 13,
    alpha: float = 1.0,
    eps: float = 1e-7,
    margin: float = 0.01,
    ultralytics: bool = False,
) -> tuple[Tensor, Tensor]:
    """As TOOD; `ultralytics` compares by CIoU and looks only at priors inside an object."""
    overlap = (ciou_matrix if ultralytics else iou_matrix)(predicted, boxes)  # (L, G)
    inside = margin_matrix(priors.centers, boxes) > margin
    metric = power(probability(logits)[:, labels], alpha) * power(overlap, 6.0)
    metric = metric * inside if ultralytics else metric
    chosen = torch.zeros_like(metric, dtype=torch.bool).scatter(0, best(metric, topk, largest=True), True)
    chosen &= (metric > 0) & inside
    index = strongest(overlap, chosen)
    score = torch.zeros_like(metric[:, 0])
    for number in range(len(boxes)):
        own = index == number
        if own.any():
            aligned = metric[own, number]
            score[own] = aligned / (aligned.max() + eps) * overlap[own, number].max()
    return index, score


def task_aligned_inside(
    boxes: Tensor,
    labels: Tensor,
    priors: Priors,
    logits: Tensor,
    predicted: Tensor,
    topk: int = 13,
    alpha: float = 1.0,
    beta: float = 6.0,
    stride: float | None = None,
    final_topk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """As PaddleDetection; with the `stride` that objects are enlarged to as ultralytics. Zero metrics are dropped."""
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=stride or 0.0)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = margin_matrix(priors.centers, torch.cat([middle - sides / 2, middle + sides / 2], dim=1)) > 1e-9
    overlap = iou_matrix(predicted, boxes) if stride is None else ciou_matrix(predicted, boxes) * inside  # (L, G)
    metric = power(probability(logits)[:, labels], alpha) * power(overlap, beta)
    chosen = torch.zeros_like(inside).scatter(0, best(metric * inside, topk, largest=True), True)
    chosen &= inside & (metric > 0)
    index = strongest(overlap, chosen)
    index = torch.where(chosen.sum(1) > 1, overlap.argmax(1), index)
    score = torch.zeros_like(metric[:, 0])
    for number in range(len(boxes)):
        own = (index == number).nonzero()[:, 0]
        if final_topk is not None:
            kept = own[best(metric[own, number, None], final_topk, largest=True)[:, 0]]
            index[own] = -1
            index[kept] = number
            own = kept
        if len(own):
            aligned = metric[own, number]
            score[own] = aligned / (aligned.max() + 1e-9) * overlap[own, number].max()
    return index, score


def dynamic_k(cost: Tensor, iou: Tensor, topk: int) -> Tensor:
    """Match (G, A) costs and IoUs of the candidates: (A,) objects or -1."""
    counts = iou.topk(min(topk, iou.shape[1]), dim=1).values.sum(1).int().clamp(min=1)
    matching = torch.zeros_like(cost, dtype=torch.bool)
    for number, count in enumerate(counts.tolist()):
        matching[number, best(cost[number, :, None], count, largest=False)[:, 0]] = True
    several = matching.sum(0) > 1
    matching[:, several] = False
    matching[cost[:, several].argmin(0), several] = True
    return torch.where(matching.any(0), matching.int().argmax(0), -1)


def simota(
    boxes: Tensor,
    labels: Tensor,
    priors: Priors,
    logits: Tensor,
    objectness: Tensor,
    predicted: Tensor,
    topk: int = 10,
    mmdet: bool = False,
    radius: float = 1.5,
    weights: tuple[float, float] = (1.0, 3.0),
) -> Tensor:
    offset = (priors.centers - ((boxes[:, :2] + boxes[:, 2:]) / 2)[:, None]).abs().amax(-1)
    window = offset < radius * priors.strides  # (G, L)
    inside = margin_matrix(priors.centers, boxes).T > 0
    candidate = (window | inside).any(0) if mmdet else window.any(0)
    iou = iou_matrix(boxes, predicted[candidate])  # (G, A)
    joint = logits[candidate].sigmoid() * objectness[candidate].sigmoid()
    joint = joint if mmdet else joint.sqrt()
    one_hot = torch.nn.functional.one_hot(labels, logits.shape[1]).float()
    shape = (len(boxes), *joint.shape)  # the published form holds this (G, A, C) tensor
    entropy = torch.nn.functional.binary_cross_entropy(
        joint.expand(shape), one_hot[:, None].expand(shape), reduction="none"
    ).sum(-1)
    near = (window & inside if mmdet else window)[:, candidate]
    eps, penalty = (1e-7, 1e5) if mmdet else (1e-8, 1e6)
    cost = weights[0] * entropy - weights[1] * (iou + eps).log() + penalty * ~near
    index = torch.full_like(logits[:, 0], -1, dtype=torch.int64)
    index[candidate] = dynamic_k(cost, iou, topk)
    return index


def dynamic_soft_label(
    boxes: Tensor,
    labels: Tensor,
    priors: Priors,
    logits: Tensor,
    predicted: Tensor,
    topk: int = 13,
    radius: float | None = 3.0,
) -> Tensor:
    candidate = (margin_matrix(priors.centers, boxes) > 0).any(1)
    iou = iou_matrix(boxes, predicted[candidate])  # (G, A)
    distance = (priors.centers[candidate] - ((boxes[:, :2] + boxes[:, 2:]) / 2)[:, None]).square().sum(-1).sqrt()
    one_hot = torch.nn.functional.one_hot(labels, logits.shape[1]).float()
    soft = iou[..., None] * one_hot[:, None]  # (G, A, C)
    some = logits[candidate].expand(soft.shape)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(some, soft, reduction="none")
    cost = (entropy * (soft - some.sigmoid()).abs().square()).sum(-1) - 3 * (iou + 1e-7).log()
    if radius is not None:
        cost = cost + 10.0 ** (distance / priors.strides[candidate] - radius)
    index = torch.full_like(logits[:, 0], -1, dtype=torch.int64)
    index[candidate] = dynamic_k(cost, iou, topk)
    return index


def per_image(
    name: str, priors: Priors, targets: Targets, predictions: Predictions | None = None, **options: Any
) -> Assignment:
    """Assign a batch image after image with the function of that name; images without objects are background."""
    indices, scores = [], []
    for image in range(len(targets)):
        boxes, labels = (part[image][targets.objects[image]] for part in (targets.boxes, targets.labels))
        numbers = targets.objects[image].nonzero().squeeze(1)
        index, score = torch.full((len(priors),), -1, device=numbers.device), None
        if len(boxes):
            arguments: tuple[Any, ...] = ()
            if predictions is not None and predictions.boxes is not None:
                extras = (predictions.extras["objectness"][image],) if name == "simota" else ()
                arguments = (predictions.logits[image], *extras, predictions.boxes[image])
            function = globals()[name]
            arguments = (boxes, labels, priors, *arguments) if arguments else (boxes, priors)
            index = function(*arguments, **options)
            index, score = index if isinstance(index, tuple) else (index, None)
            index = torch.where(index >= 0, numbers[index.clamp(min=0)], index)
        indices.append(index)
        scores.append((index >= 0).float() if score is None else score)
    return Assignment(torch.stack(indices), torch.stack(scores))
