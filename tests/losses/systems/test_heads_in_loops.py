"""The losses of heads, class-balanced forms, D-FINE and sigma smooth L1 against loops, at random, in float64."""

import itertools
import math
import random
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.losses import (
    SigmoidFocalLoss,
    SoftmaxCrossEntropyLoss,
    VarifocalLoss,
    effective_number,
    fine_grained_localization_loss,
    localization_distillation_loss,
    sigma_smooth_l1_loss,
    sigmoid_cross_entropy,
    sigmoid_focal_loss,
    softmax_cross_entropy,
    weighting_function,
)
from boxwright.losses.systems import (
    StageOutput,
    faster_rcnn_loss,
    gfl_loss,
    multibox_loss,
    set_prediction_loss,
    tood_loss,
    tood_warmup_loss,
)

seeds = pytest.mark.parametrize("seed", range(8))
EXACT = {"rtol": 1e-9, "atol": 1e-9}
OVERLAP = {"rtol": 1e-7, "atol": 1e-7}


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def same(value: Tensor, expected: Tensor, *inputs: Tensor, tolerance: dict[str, float] = EXACT) -> None:
    torch.testing.assert_close(value, expected, **tolerance)
    theirs = torch.autograd.grad(expected, inputs, allow_unused=True, materialize_grads=True, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(value, inputs), theirs, **tolerance)


def overlaps(a: Tensor, b: Tensor, floor: float = 1e-6) -> tuple[Tensor, Tensor]:
    """IoU and GIoU of one pair of xyxy boxes."""
    inner = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0).prod()
    union = ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - inner).clamp(min=floor)
    hull = (torch.maximum(a[2:], b[2:]) - torch.minimum(a[:2], b[:2])).prod().clamp(min=floor)
    return inner / union, inner / union - (hull - union) / hull


def bce(p: Tensor, t: Tensor) -> Tensor:
    return -(t * p.log() + (1 - t) * (1 - p).log())


def random_boxes(count: int, size: float = 40.0) -> Tensor:
    corner = torch.rand(count, 2) * size
    return torch.cat([corner, corner + 3 + torch.rand(count, 2) * size], -1)


@seeds
def test_gfl(seed: int) -> None:
    draw, _ = random.Random(seed), torch.manual_seed(seed)
    rows, classes, bins, beta = draw.randint(1, 9), draw.randint(1, 4), draw.choice((4, 7, 16)), draw.uniform(0.5, 3)
    factors = {"box_factor": draw.uniform(0.5, 3), "distribution_factor": draw.uniform(0.1, 2)}
    normalizer, from_logits = draw.choice((None, draw.uniform(0.5, 5))), draw.random() < 0.5
    scores = torch.rand(rows, classes, requires_grad=True)
    probabilities = scores.sigmoid() if from_logits else scores
    sides = torch.randn(rows, 4, bins + 1, requires_grad=True)
    labels, label_weight = torch.randint(draw.choice((-2, -1)), classes, (rows,)), torch.rand(rows)
    boxes, centers, strides = random_boxes(rows), torch.rand(rows, 2) * 60, 2.0 ** torch.randint(2, 6, (rows,))
    parts = {"classification": scores.sum() * 0, "box": sides.sum() * 0, "distribution": sides.sum() * 0}
    total = 0.0
    for n in range(rows):
        target, p = torch.zeros(classes), probabilities[n]
        distance = (sides[n].softmax(-1) * torch.arange(bins + 1)).sum(-1)
        center = centers[n] / strides[n]
        box, goal = torch.cat([center - distance[:2], center + distance[2:]]), boxes[n] / strides[n]
        if labels[n] == -2:
            continue
        if labels[n] >= 0:
            target[labels[n]] = overlaps(box, goal)[0].detach()
            weight = p.detach().max()
            total += weight.item()
            parts["box"] = parts["box"] + weight * (1 - overlaps(box, goal)[1])
            reach = torch.cat([center - goal[:2], goal[2:] - center]).clamp(0, bins - 0.1)
            left = reach.floor().long()
            for side in range(4):
                log_p, low = sides[n, side].log_softmax(-1), left[side]
                share = reach[side] - low
                parts["distribution"] = parts["distribution"] - weight * (
                    (1 - share) * log_p[low] + share * log_p[low + 1]
                )
        quality = (p - target).abs() ** beta * bce(p, target)
        parts["classification"] = parts["classification"] + label_weight[n] * quality.sum()
    parts["classification"] = parts["classification"] / (normalizer or (labels >= 0).sum().clamp(min=1))
    parts["box"] = factors["box_factor"] * parts["box"] / (total or 1)
    parts["distribution"] = factors["distribution_factor"] * parts["distribution"] / 4 / (total or 1)
    loss = gfl_loss(
        scores, sides, labels, boxes, centers, strides,
        from_logits=from_logits, beta=beta, label_weight=label_weight, normalizer=normalizer, **factors,
    )  # fmt: skip
    for name, part in parts.items():
        torch.testing.assert_close(loss[name], part, **OVERLAP)
    same(sum(loss.values()), sum(parts.values()), scores, sides, tolerance=OVERLAP)


@seeds
def test_tood(seed: int) -> None:
    draw, _ = random.Random(seed), torch.manual_seed(seed)
    rows, classes, from_logits = draw.randint(1, 9), draw.randint(1, 4), draw.random() < 0.5
    alpha, gamma, factor = draw.uniform(0.1, 0.9), draw.uniform(0.5, 3), draw.uniform(0.5, 3)
    scores, predicted = torch.rand(rows, classes, requires_grad=True), random_boxes(rows).requires_grad_()
    p = scores.sigmoid() if from_logits else scores
    labels = torch.randint(draw.choice((-2, -1)), classes, (rows,))
    boxes, centers = random_boxes(rows), torch.rand(rows, 2) * 60
    label_weight, metrics = torch.rand(rows), torch.rand(rows) * (labels >= 0)
    late, early = [p.sum() * 0, predicted.sum() * 0], [p.sum() * 0, predicted.sum() * 0]
    central = 0.0
    for n in range(rows):
        t, hard = torch.zeros(classes), torch.zeros(classes)
        if labels[n] == -2:
            continue
        if labels[n] >= 0:
            t[labels[n]], hard[labels[n]] = metrics[n], 1
            cost = 1 - overlaps(predicted[n], boxes[n])[1]
            late[1] = late[1] + metrics[n] * cost
            sides = [*(centers[n] - boxes[n, :2]), *(boxes[n, 2:] - centers[n])]
            ratio = [max(0.0, min(a, b).item()) / max(a, b).item() for a, b in zip(sides[:2], sides[2:], strict=True)]
            central += math.sqrt(math.prod(ratio))
            early[1] = early[1] + math.sqrt(math.prod(ratio)) * cost
        late[0] = late[0] + ((t - p[n]).abs() ** gamma * bce(p[n], t)).sum()
        right = hard * p[n] + (1 - hard) * (1 - p[n])
        balance = alpha * hard + (1 - alpha) * (1 - hard)
        early[0] = early[0] + label_weight[n] * (balance * (1 - right) ** gamma * bce(p[n], hard)).sum()
    share = metrics.sum().item() or 1
    options = {"gamma": gamma, "box_factor": factor, "from_logits": from_logits}
    loss = tood_loss(scores, predicted, labels, boxes, metrics, **options)
    same(sum(loss.values()), (late[0] + factor * late[1]) / share, scores, predicted, tolerance=OVERLAP)
    first = tood_warmup_loss(
        scores, predicted, labels, boxes, centers, alpha=alpha, label_weight=label_weight, **options
    )  # fmt: skip
    positives = max((labels >= 0).sum().item(), 1)
    expected = early[0] / positives + factor * early[1] / (central or 1)
    same(sum(first.values()), expected, scores, predicted, tolerance=OVERLAP)


@seeds
def test_rtdetr(seed: int) -> None:
    draw, _ = random.Random(seed), torch.manual_seed(seed)
    images, queries, classes = draw.randint(1, 3), draw.randint(1, 8), draw.randint(1, 4)
    alpha, gamma = draw.uniform(0.1, 0.9), draw.uniform(0.5, 3)
    logits = torch.randn(images, queries, classes, requires_grad=True)
    predicted = (torch.rand(images, queries, 4) * 0.4 + 0.2).requires_grad_()
    labels, boxes = torch.randint(-1, classes, (images, queries)), torch.rand(images, queries, 4) * 0.4 + 0.2
    terms = {"vfl": logits.sum() * 0, "focal": logits.sum() * 0, "l1": predicted.sum() * 0, "giou": predicted.sum() * 0}
    for b in range(images):
        for n in range(queries):
            x, label = logits[b, n], int(labels[b, n])
            t, hard, weight = torch.zeros(classes), torch.zeros(classes), alpha * x.detach().sigmoid() ** gamma
            if label >= 0:
                a, g = (
                    torch.cat([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2]) for box in (predicted[b, n], boxes[b, n])
                )
                iou, giou = overlaps(a, g, floor=0.0)
                t[label], hard[label], weight[label] = iou.detach(), 1, iou.detach()
                terms["l1"] = terms["l1"] + (predicted[b, n] - boxes[b, n]).abs().sum()
                terms["giou"] = terms["giou"] + 1 - giou
            terms["vfl"] = terms["vfl"] + (weight * bce(x.sigmoid(), t)).sum()
            right = hard * x.sigmoid() + (1 - hard) * (1 - x.sigmoid())
            balance = alpha * hard + (1 - alpha) * (1 - hard)
            terms["focal"] = terms["focal"] - (balance * (1 - right) ** gamma * right.log()).sum()
    count = max((labels >= 0).sum().item(), 1)
    for name, kind in (("vfl", VarifocalLoss(alpha, gamma, detach=True)), ("focal", SigmoidFocalLoss(alpha, gamma))):
        loss = set_prediction_loss(logits, predicted, labels, boxes, kind)
        same(loss["classification"], terms[name] / count, logits, tolerance=OVERLAP)
    same(loss["l1"], terms["l1"] / count, predicted)
    same(loss["giou"], terms["giou"] / count, predicted, tolerance=OVERLAP)


@seeds
def test_detr(seed: int) -> None:
    draw, _ = random.Random(seed), torch.manual_seed(seed)
    images, queries, classes, share = draw.randint(1, 3), draw.randint(1, 8), draw.randint(1, 4), draw.uniform(0.05, 1)
    logits = torch.randn(images, queries, classes + 1, requires_grad=True)
    labels, boxes = torch.randint(-1, classes, (images, queries)), torch.rand(images, queries, 4)
    cost, shares = logits.sum() * 0, 0.0
    for b, n in itertools.product(range(images), range(queries)):
        label = int(labels[b, n])
        own = 1.0 if label >= 0 else share
        cost, shares = cost - own * logits[b, n].log_softmax(-1)[label], shares + own  # -1 is the last: "no object"
    kind = SoftmaxCrossEntropyLoss()
    loss = set_prediction_loss(logits, boxes.flip(0), labels, boxes, kind, background_weight=share)
    same(loss["classification"], cost / shares, logits)


@seeds
def test_ssd(seed: int) -> None:
    draw, _ = random.Random(seed), torch.manual_seed(seed)
    images, priors, classes, ratio = (
        draw.randint(1, 3),
        draw.randint(2, 30),
        draw.randint(1, 4),
        draw.choice((1, 2, 3, 7)),
    )
    deltas = torch.randn(images, priors, 4, requires_grad=True)
    logits, goal = torch.randn(images, priors, 1 + classes, requires_grad=True), torch.randn(images, priors, 4)
    labels = torch.randint(0, classes + 1, (images, priors)) * (torch.rand(images, priors) < draw.choice((0, 0.2, 0.9)))
    labels[torch.rand(images, priors) < draw.choice((0, 0.3))] = -1
    box, entropy, count = deltas.sum() * 0, logits.sum() * 0, 0
    for b in range(images):
        positive = [n for n in range(priors) if labels[b, n] > 0]
        background = [n for n in range(priors) if labels[b, n] == 0]
        cost = -logits[b].log_softmax(-1)
        background.sort(key=lambda n: -cost[n, 0].item())
        count += len(positive)
        for n in positive + background[: min(ratio * len(positive), priors - 1)]:
            entropy = entropy + cost[n, labels[b, n]]
        for n in positive:
            error = (deltas[b, n] - goal[b, n]).abs()
            box = box + torch.where(error <= 1, error**2 / 2, error - 0.5).sum()
    loss = multibox_loss(deltas, logits, goal, labels, negative_ratio=ratio)
    same(loss["box"], box / max(count, 1), deltas)
    same(loss["class"], entropy / max(count, 1), logits)


def sigma_loop(x: Tensor, t: Tensor, inside: Tensor, outside: Tensor, sigma: float) -> Tensor:
    error = inside * (x - t)
    near = error.abs() < 1 / sigma**2
    return outside * torch.where(near, (sigma * error) ** 2 / 2, error.abs() - 0.5 / sigma**2)


@seeds
def test_sigma_smooth_l1(seed: int) -> None:
    draw, _ = random.Random(seed), torch.manual_seed(seed)
    shape = [draw.randint(0, 5) for _ in range(draw.randint(1, 4))]
    x, t, sigma = torch.randn(shape).requires_grad_(), torch.randn(shape), draw.uniform(0.3, 5)
    inside, outside = torch.rand(shape) * 2, torch.rand(shape)
    loss = sigma_smooth_l1_loss(x, t, sigma=sigma, inside_weight=inside, weight=outside)
    expected = sigma_loop(x, t, inside, outside, sigma)
    torch.testing.assert_close(loss, expected, **EXACT)
    same(loss.sum(), expected.sum(), x)


@seeds
def test_faster_rcnn(seed: int) -> None:
    draw, _ = random.Random(seed), torch.manual_seed(seed)
    sigmas, stages, expected, inputs = (draw.uniform(0.5, 4), draw.uniform(0.5, 4)), [], [], []
    shapes = [(draw.randint(1, 2), draw.randint(1, 12), 2, 8), (draw.randint(0, 9), 1, draw.randint(2, 5), 12)]
    for sigma, (rows, per_row, columns, params) in zip(sigmas, shapes, strict=True):
        logits = torch.randn(rows, per_row, columns, requires_grad=True)
        deltas = torch.randn(rows, per_row, params, requires_grad=True)
        labels = torch.randint(-1, columns, (rows, per_row))
        goal, inside, outside = torch.randn(3, rows, per_row, params).unbind()
        stages.append(StageOutput(logits, labels, deltas, goal, inside, outside))
        kept = [(b, n) for b in range(rows) for n in range(per_row) if labels[b, n] >= 0]
        cost = sum((-logits[at].log_softmax(-1)[labels[at]] for at in kept), logits.sum() * 0)
        expected += [cost / max(len(kept), 1), sigma_loop(deltas, goal, inside, outside, sigma).sum() / max(rows, 1)]
        inputs += [logits, deltas]
    loss = faster_rcnn_loss(*stages, proposal_sigma=sigmas[0], region_sigma=sigmas[1])
    torch.testing.assert_close(list(loss.values()), expected, **EXACT)
    same(sum(loss.values()), sum(expected), *inputs)


@seeds
def test_class_balanced(seed: int) -> None:
    draw, _ = random.Random(seed), torch.manual_seed(seed)
    rows, classes, beta, gamma = draw.randint(1, 9), draw.randint(1, 6), draw.uniform(0, 0.99999), draw.uniform(0, 3)
    counts = [draw.randint(1, 6000) for _ in range(classes)]
    raw = [(1 - beta) / (1 - beta**count) for count in counts]
    weights = torch.tensor([classes * weight / sum(raw) for weight in raw])
    torch.testing.assert_close(effective_number(counts, beta), weights, **EXACT)
    x, labels = (3 * torch.randn(rows, classes)).requires_grad_(), torch.randint(classes, (rows,))
    sigmoid, softmax, focal = (x.sum() * 0 for _ in range(3))
    for n in range(rows):
        weight, y = weights[labels[n]], F.one_hot(labels[n], classes).double()
        cost = bce(x[n].sigmoid(), y)
        sigmoid = sigmoid + weight * cost.sum() / rows
        softmax = softmax - weight * x[n].log_softmax(-1)[labels[n]] / rows
        right = y * x[n].sigmoid() + (1 - y) * (1 - x[n].sigmoid())
        focal = focal + weight * ((1 - right) ** gamma * cost).sum() / rows
    options = {"class_weight": effective_number(counts, beta), "reduction": "mean", "normalizer": rows}
    same(sigmoid_cross_entropy(x, labels, **options), sigmoid, x)
    same(softmax_cross_entropy(x, labels, background="none", **options), softmax, x)
    same(sigmoid_focal_loss(x, labels, alpha=None, gamma=gamma, **options), focal, x)


@seeds
def test_dfine(seed: int) -> None:
    draw, _ = random.Random(seed), torch.manual_seed(seed)
    bins, up, scale = draw.choice((4, 8, 16, 32)), draw.uniform(0.2, 1.0), draw.uniform(1, 8)
    step, middle = (up * scale + 1) ** (2 / (bins - 2)), bins // 2
    half = [step**i - 1 for i in range(1, middle)] + [2 * up * scale]
    values = torch.tensor([-value for value in reversed(half)] + [0.0] + half)
    torch.testing.assert_close(weighting_function(bins, up, scale), values, **EXACT)

    images, queries = draw.randint(1, 3), draw.randint(1, 6)
    x = torch.randn(images, queries, 4, bins + 1, requires_grad=True)
    goal, weight = torch.randn(images, queries, 4) * up * scale, torch.rand(images, queries)
    cost = x.sum() * 0
    for b, n, side in torch.cartesian_prod(*map(torch.arange, (images, queries, 4))).tolist():
        target, log_p = goal[b, n, side], x[b, n, side].log_softmax(-1)
        left, share = bins - 1, 1.0
        if target < values[0]:
            left, share = 0, 0.0
        elif target < values[-1]:
            left = max(k for k in range(bins) if values[k] <= target)
            share = ((target - values[left]) / (values[left + 1] - values[left])).item()
        cost = cost - weight[b, n] * ((1 - share) * log_p[left] + share * log_p[left + 1])
    loss = fine_grained_localization_loss(x, goal, values=values, weight=weight, reduction="mean", normalizer=3)
    same(loss, cost / 3, x)

    teacher, matched, heat = (
        torch.randn_like(x),
        torch.rand(images, queries) < draw.choice((0, 0.4, 1)),
        draw.uniform(1, 6),
    )
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for b, n, side in torch.cartesian_prod(*map(torch.arange, (images, queries, 4))).tolist():
        ours, theirs = (logits[b, n, side] / heat for logits in (x, teacher))
        divergence = (theirs.softmax(-1) * (theirs.log_softmax(-1) - ours.log_softmax(-1))).sum()
        groups[bool(matched[b, n])].append(weight[b, n] * heat**2 * divergence)
    share = {which: math.sqrt(8 / images * len(group)) for which, group in groups.items()}
    means = [torch.stack(group).mean() * share[which] for which, group in groups.items() if group]
    distilled = localization_distillation_loss(x, teacher, matched, weight=weight, temperature=heat)
    same(distilled, sum(means) / sum(share.values()), x)
