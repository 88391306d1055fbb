"""Quality focal, varifocal, task-aligned and matchability-aware loss against golden cases and formulas."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from boxwright.losses import (
    MatchabilityAwareLoss,
    QualityFocalLoss,
    TaskAlignedFocalLoss,
    VarifocalLoss,
    matchability_aware_loss,
    quality_focal_loss,
    task_aligned_focal_loss,
    varifocal_loss,
)
from goldens import close, golden_cases, gradient, load_case, with_background

FLOAT32_EPS = 1.1920929e-07  # added to the average factor by the newer generation of the original


@pytest.mark.parametrize("file", golden_cases("losses/qfl"))
def test_golden_qfl(file: Path) -> None:
    case = load_case(file)
    logits = bool(case.param("use_sigmoid"))
    inputs = case["in_logits" if logits else "in_prob"].requires_grad_()
    labels = with_background(case["in_labels"], inputs.shape[-1])
    hyper = {"beta": case.param("beta"), "from_logits": logits}
    options = {"scores": case["in_scores"], "weight": case.get("in_weight")}
    close(quality_focal_loss(inputs, labels, **options, **hyper).sum(-1), case["out_loss_none"])
    total = quality_focal_loss(inputs, labels, **options, **hyper, reduction="sum")
    close(total, case["out_loss_sum"])
    close(gradient(total, inputs), case["grad_logits_of_sum" if logits else "grad_prob_of_sum"])
    module = QualityFocalLoss(**hyper)
    close(module(inputs, labels, **options, normalizer=len(labels)), case["out_loss_mean"])
    if "out_loss_avg_factor" in case:
        mean = module(inputs, labels, **options, normalizer=case.param("avg_factor"))
        close(mean, case["out_loss_avg_factor"])


@pytest.mark.parametrize("file", golden_cases("losses/vfl"))
def test_golden_vfl(file: Path) -> None:
    case = load_case(file)
    logits, targets, weight = case["in_logits"].requires_grad_(), case["in_targets"], case.get("in_weight")
    module = VarifocalLoss(case.param("alpha"), case.param("gamma"), bool(case.param("iou_weighted")))
    close(module(logits, targets, weight=weight), case["out_loss_mean"])
    module.reduction = "none"
    close(module(logits, targets, weight=weight), case["out_loss_none"])
    module.reduction = "sum"
    close(gradient(module(logits, targets, weight=weight), logits), case["grad_logits_of_sum"])
    if "param_avg_factor" in case:
        module.reduction = "mean"
        normalizer = case.param("avg_factor") + FLOAT32_EPS
        close(module(logits, targets, weight=weight, normalizer=normalizer), case["out_loss_avg_factor"])


@pytest.mark.parametrize("file", golden_cases("losses/tood_task_aligned_focal"))
def test_golden_tood_task_aligned_focal(file: Path) -> None:
    case = load_case(file)
    prob, weight = case["in_prob"].requires_grad_(), case.get("in_weight")
    labels, scores = with_background(case["in_labels"], prob.shape[-1]), case["in_alignment_metric"]
    hyper = {"gamma": case.param("gamma"), "from_logits": False}
    loss = task_aligned_focal_loss(prob, labels, scores=scores, weight=weight, **hyper)
    close(loss, case["out_loss_none"])
    close(gradient(loss.sum(), prob), case["grad_prob_of_sum"])
    module = TaskAlignedFocalLoss(**hyper)
    close(module(prob, labels, scores=scores, weight=weight), case["out_loss_mean"])
    mean = module(prob, labels, scores=scores, weight=weight, normalizer=case.param("avg_factor"))
    close(mean, case["out_loss_avg_factor"])


def test_logits_and_probabilities_agree() -> None:
    logits = torch.randn(40, 3, dtype=torch.float64)
    labels, scores = torch.randint(-2, 3, (40,)), torch.rand(40)
    for function in (quality_focal_loss, task_aligned_focal_loss):
        close(
            function(logits, labels, scores=scores),
            function(logits.sigmoid(), labels, scores=scores, from_logits=False),
            1e-7,
        )


@pytest.mark.parametrize("detach", [False, True])
def test_varifocal_sum_equals_its_elements(detach: bool) -> None:
    """The kernel that adds up and the plain elementwise form, with and without gradient through the modulator."""
    logits = torch.randn(40, 3, dtype=torch.float64, requires_grad=True)
    labels, scores = torch.randint(-2, 3, (40,)), torch.rand(40)
    elements = varifocal_loss(logits, labels, scores=scores, detach=detach)
    total = varifocal_loss(logits, labels, scores=scores, detach=detach, reduction="sum")
    close(total, elements.sum())
    close(gradient(total, logits), gradient(elements.sum(), logits))
    p = logits.detach().sigmoid()
    constant = gradient((0.75 * p**2 * F.softplus(logits))[labels == -1].sum(), logits)
    changed = not torch.allclose(gradient(total, logits)[labels == -1], constant[labels == -1])
    assert changed != detach


def test_matchability_follows_its_formula() -> None:
    logits = torch.randn(40, 3, dtype=torch.float64)
    labels, q = torch.randint(-1, 3, (40,)), torch.rand(40, dtype=torch.float64)
    p = logits.sigmoid()
    label = F.one_hot(labels.clamp(min=0), 3) * (labels >= 0).unsqueeze(1)
    target = (q**1.5).unsqueeze(1)
    positive = -target * p.log() - (1 - target) * (1 - p).log()
    expected = torch.where(label > 0, positive, -(p**1.5) * (1 - p).log())
    close(matchability_aware_loss(logits, labels, scores=q), expected)
    close(MatchabilityAwareLoss(reduction="sum")(logits, label * q.unsqueeze(1)), expected.sum())
