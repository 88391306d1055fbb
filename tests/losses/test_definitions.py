"""Box losses against the golden data's written definitions, in float64, with other hyper-parameters and shapes."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from boxwright import losses

Loss = Callable[..., Tensor]


def areas(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Intersection, union, and the extents of the hull."""
    inner = (torch.min(a[..., 2:], b[..., 2:]) - torch.max(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - inner
    return inner, union, torch.max(a[..., 2:], b[..., 2:]) - torch.min(a[..., :2], b[..., :2])


def iou(a: Tensor, b: Tensor, form: str, eps: float) -> Tensor:
    inner, union, _ = areas(a, b)
    value = (inner / union.clamp(min=1e-6)).clamp(min=eps)
    return {"linear": 1 - value, "square": 1 - value**2, "log": -value.log()}[form]


def giou(a: Tensor, b: Tensor, eps: float, version: str) -> Tensor:
    inner, union, hull = areas(a, b)
    area = hull.prod(-1)
    if version == "torchvision":
        return 1 - inner / (union + eps) + (area - union) / (area + eps)
    union, area = union.clamp(min=eps), area.clamp(min=eps)
    return 1 - inner / union + (area - union) / area


def diou(a: Tensor, b: Tensor, eps: float) -> Tensor:
    inner, union, hull = areas(a, b)
    distance = ((a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) ** 2).sum(-1) / 4
    return 1 - inner / (union + eps) + distance / ((hull**2).sum(-1) + eps)


def ciou(a: Tensor, b: Tensor, eps: float, version: str) -> Tensor:
    added = 0.0 if version == "torchvision" else eps
    base = 1e-7 if version == "torchvision" else eps
    inner, union, _ = areas(a, b)
    overlap = inner / (union + base)
    angles = [torch.atan((box[..., 2] - box[..., 0]) / (box[..., 3] - box[..., 1] + added)) for box in (a, b)]
    v = 4 / math.pi**2 * (angles[1] - angles[0]) ** 2
    if version == "classic":
        return diou(a, b, base) + v**2 / (1 - overlap + v)
    if version == "torchvision":
        return diou(a, b, base) + (v / (1 - overlap + v + eps)).detach() * v
    alpha = torch.where(overlap > 0.5, v / (1 - overlap + v), 0).detach()
    return 1 - (1 - diou(a, b, base) - alpha * v).clamp(-1, 1)


def sizes(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Widths and heights of both, and the difference of their centres."""
    return a[..., 2:] - a[..., :2], b[..., 2:] - b[..., :2], (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2


def one_minus_iou(a: Tensor, b: Tensor, eps: float) -> Tensor:
    inner, union, _ = areas(a, b)
    return 1 - inner / union.clamp(min=eps)


def eiou(a: Tensor, b: Tensor, eps: float) -> Tensor:
    hull, (size, goal, offset) = areas(a, b)[2] ** 2, sizes(a, b)
    sides = ((size - goal) ** 2 / (hull + eps)).sum(-1)
    return one_minus_iou(a, b, eps) + (offset**2).sum(-1) / (hull.sum(-1) + eps) + sides


def siou(a: Tensor, b: Tensor, theta: float, eps: float) -> Tensor:
    """With the paper's angle cost 1 - 2 sin²(arcsin(dy / d) - π / 4), which is sin(2 arcsin(dy / d))."""
    hull, (size, goal, offset) = areas(a, b)[2], sizes(a, b)
    angle = 1 - 2 * torch.sin(torch.asin(offset[..., 1].abs() / offset.norm(dim=-1)) - math.pi / 4) ** 2
    angle = angle * (offset**2).sum(-1) / (offset**2).sum(-1).clamp(min=eps)
    distance = 1 - torch.exp(-(2 - angle.unsqueeze(-1)) * (offset / hull.clamp(min=eps**0.5)) ** 2)
    shape = (1 - torch.exp(-(size - goal).abs() / torch.maximum(size, goal).clamp(min=eps))) ** theta
    return one_minus_iou(a, b, eps) + (distance + shape).sum(-1) / 2


def mpdiou(a: Tensor, b: Tensor, image_size: tuple[float, float], eps: float) -> Tensor:
    corners = ((a - b) ** 2).sum(-1)
    return one_minus_iou(a, b, eps) + corners / (image_size[0] ** 2 + image_size[1] ** 2)


def wasserstein(a: Tensor, b: Tensor, constant: float, eps: float) -> Tensor:
    size, goal, offset = sizes(a, b)
    squared = (offset**2).sum(-1) + ((size - goal) ** 2).sum(-1) / 4
    return 1 - torch.exp((eps**0.5 - (squared + eps).sqrt()) / constant)


def wise(a: Tensor, b: Tensor, mean: float, alpha: float, delta: float, eps: float) -> Tensor:
    diagonal = (areas(a, b)[2] ** 2).sum(-1).detach().clamp(min=eps)
    loss = one_minus_iou(a, b, eps)
    outlier = loss.detach() / mean
    return outlier / (delta * alpha ** (outlier - delta)) * ((sizes(a, b)[2] ** 2).sum(-1) / diagonal).exp() * loss


def bounded(a: Tensor, b: Tensor, beta: float, eps: float) -> Tensor:
    size, goal = a[..., 2:] - a[..., :2], b[..., 2:] - b[..., :2]
    shift = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]).abs()
    center = 1 - ((goal - shift) / (goal + shift + eps)).clamp(min=0)
    cost = torch.cat([center, 1 - torch.min(goal / (size + eps), size / (goal + eps))], dim=-1)
    return torch.where(cost < beta, cost**2 / (2 * max(beta, 1e-30)), cost - beta / 2)


def balanced(x: Tensor, t: Tensor, alpha: float, gamma: float, beta: float) -> Tensor:
    d, b = (x - t).abs(), math.exp(gamma / alpha) - 1
    near = alpha / b * (b * d + 1) * torch.log(b * d / beta + 1) - alpha * d
    return torch.where(d < beta, near, gamma * d + gamma / b - alpha * beta)


EPS = (1e-9, 1e-3, 0.05)
PAIRS: list[tuple[Loss, Loss, dict[str, object]]] = [
    *((losses.iou_loss, iou, {"form": form, "eps": eps}) for form in ("linear", "square", "log") for eps in EPS),
    *((losses.giou_loss, giou, {"version": v, "eps": eps}) for v in ("floored", "torchvision") for eps in EPS),
    *((losses.diou_loss, diou, {"eps": eps}) for eps in EPS),
    *((losses.ciou_loss, ciou, {"version": v, "eps": eps}) for v in ("gated", "classic", "torchvision") for eps in EPS),
    *((losses.bounded_iou_loss, bounded, {"beta": beta, "eps": eps}) for beta in (0.0, 0.05, 1.0) for eps in EPS),
    *((losses.eiou_loss, eiou, {"eps": eps}) for eps in EPS),
    *((losses.siou_loss, siou, {"theta": theta, "eps": eps}) for theta in (1.5, 4.0) for eps in EPS),
    *((losses.mpdiou_loss, mpdiou, {"image_size": (80.0, 100.0), "eps": eps}) for eps in EPS),
    *((losses.normalized_wasserstein_loss, wasserstein, {"constant": 5.0, "eps": eps}) for eps in EPS),
    *((losses.wise_iou_loss, wise, {"mean": 0.4, "alpha": 1.5, "delta": 2.0, "eps": eps}) for eps in EPS),
    (losses.balanced_l1_loss, balanced, {"alpha": 0.3, "gamma": 1.0, "beta": 0.5}),
    (losses.balanced_l1_loss, balanced, {"alpha": 1.0, "gamma": 2.0, "beta": 2.0}),
]


@pytest.mark.parametrize(("loss", "definition", "hyper"), PAIRS, ids=lambda part: getattr(part, "__name__", str(part)))
def test_values_and_gradients_follow_the_definition(loss: Loss, definition: Loss, hyper: dict[str, object]) -> None:
    for shape in ((0,), (1,), (50,), (3, 7)):
        for scale in (1e-3, 1.0, 1e4):
            corner = torch.rand(2, *shape, 2, dtype=torch.float64) * 10
            size = 0.01 + 8 * torch.rand(2, *shape, 2, dtype=torch.float64)
            boxes, targets = torch.cat([corner, corner + size], dim=-1) * scale
            boxes = boxes.lerp(targets, 0.4).requires_grad_()
            weight = torch.rand(shape, dtype=torch.float64)
            expected = definition(boxes, targets, **hyper)
            spread = weight.unsqueeze(-1) if expected.ndim > weight.ndim else weight
            for call, value in (
                (partial(loss, reduction="none"), expected),
                (partial(loss, reduction="sum"), expected.sum()),
                (partial(loss, reduction="mean", weight=weight, normalizer=3.0), (expected * spread).sum() / 3),
            ):
                actual = call(boxes, targets, **hyper)
                torch.testing.assert_close(actual, value, rtol=1e-7, atol=1e-7)
                slopes = [torch.autograd.grad(v.sum(), boxes, retain_graph=True)[0] for v in (actual, value)]
                torch.testing.assert_close(*slopes, rtol=1e-7, atol=1e-7)


OVERLAPS = [
    pair for pair in PAIRS if pair[0] in (losses.iou_loss, losses.giou_loss, losses.diou_loss, losses.ciou_loss)
]


@pytest.mark.parametrize(("loss", "definition", "hyper"), OVERLAPS, ids=lambda part: str(part))
def test_inverted_predictions_follow_the_definition(loss: Loss, definition: Loss, hyper: dict[str, object]) -> None:
    corner = torch.rand(2, 200, 2, dtype=torch.float64) * 10
    boxes = torch.cat([corner[0], corner[0] + 8 * torch.rand(200, 2, dtype=torch.float64) - 4], dim=-1).requires_grad_()
    targets = torch.cat([corner[1], corner[1] + 0.1 + 4 * torch.rand(200, 2, dtype=torch.float64)], dim=-1)
    actual, expected = loss(boxes, targets, **hyper), definition(boxes, targets, **hyper)
    torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-7)
    slopes = [torch.autograd.grad(value.sum(), boxes)[0] for value in (actual, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-7, atol=1e-7)
