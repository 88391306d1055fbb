"""The losses of heads against loops, at random, in float64."""

import itertools
import math
import random

import pytest
import torch

from boxwright.losses import (
    SigmoidFocalLoss,
    SoftmaxCrossEntropyLoss,
    VarifocalLoss,
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
from loop_checks import EXACT, OVERLAP, bce, overlaps, random_boxes, same, seeds, sigma_loop

pytestmark = pytest.mark.usefixtures("float64")


@seeds
def test_gfl(seed: int) -> None:
    draw, _ = random.Random(seed), torch.manual_seed(seed)
    rows, classes, bins, beta = draw.randint(1, 9), draw.randint(1, 4), draw.choice((4, 7, 16)), draw.uniform(0.5, 3)
    factors = {"box_factor": draw.uniform(0.5, 3), "distribution_factor": draw.uniform(0.1, 2)}
    normalizer, from_logits = draw.choice((None, draw.uniform(0.5, 5))), bool(seed % 2)
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
    rows, classes, from_logits = draw.randint(1, 9), draw.randint(1, 4), bool(seed % 2)
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
