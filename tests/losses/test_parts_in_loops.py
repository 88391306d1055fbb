"""Class-balanced forms, D-FINE and sigma smooth L1 against loops, at random, in float64."""

import math
import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.losses import (
    effective_number,
    fine_grained_localization_loss,
    localization_distillation_loss,
    sigma_smooth_l1_loss,
    sigmoid_cross_entropy,
    sigmoid_focal_loss,
    softmax_cross_entropy,
    weighting_function,
)
from loop_checks import EXACT, bce, same, seeds, sigma_loop

pytestmark = pytest.mark.usefixtures("float64")


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
