"""GFL, GFLv2, TOOD and the set losses, composed of the small parts, against golden cases."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

import goldens
from boxwright.boxes import aligned_iou
from boxwright.boxes.formats import cxcywh_to_xyxy
from boxwright.losses import SigmoidFocalLoss, SoftmaxCrossEntropyLoss, VarifocalLoss, giou_loss
from boxwright.losses.systems import (
    StageOutput,
    faster_rcnn_loss,
    gfl_loss,
    multibox_loss,
    set_prediction_loss,
    tood_loss,
    tood_warmup_loss,
)
from goldens import Case, golden_cases, load_case, with_background

close = partial(goldens.close, tolerance=1e-7)


def rows(image: Tensor) -> Tensor:
    """(1, D, h, w) to (h * w, D)."""
    return image.flatten(2)[0].T


def centers_of(anchors: Tensor) -> Tensor:
    return (anchors[:, :2] + anchors[:, 2:]) / 2


@pytest.mark.parametrize("file", golden_cases("losses/gflv2_head_loss"))
def test_golden_gflv2_head_loss(file: Path) -> None:
    case = load_case(file)
    scores, maps = case["in_cls_score"].requires_grad_(), case["in_bbox_pred"].requires_grad_()
    losses = gfl_loss(
        rows(scores),
        rows(maps).unflatten(-1, (4, -1)),
        with_background(case["in_labels"], scores.shape[1]),
        case["in_bbox_targets"],
        centers_of(case["in_anchors"]),
        torch.full((len(case["in_labels"]),), case.param("stride")).double(),
        from_logits=False,
        beta=case.param("beta"),
        box_factor=case.param("loss_weight_giou"),
        distribution_factor=case.param("loss_weight_dfl"),
        label_weight=case["in_label_weights"],
        normalizer=case.param("num_total_samples"),
    )
    losses["classification"] = losses["classification"] * case.param("loss_weight_qfl")
    close(losses["classification"], case["out_loss_cls"])
    close(losses["box"] * case["out_weight_sum"], case["out_loss_bbox_unnormalised"])
    close(losses["distribution"] * case["out_weight_sum"], case["out_loss_dfl_unnormalised"])
    total = sum(losses.values())
    close(total, case["out_total"])
    total.backward()
    close(scores.grad, case["grad_cls_score_of_total"])
    close(maps.grad, case["grad_bbox_pred_of_total"])


def test_gfl_without_a_positive_is_finite_and_connected() -> None:
    """Flaw 7 of the goldens: the original divides by a weight sum of 0."""
    logits, sides = torch.randn(2, 6, 3, requires_grad=True), torch.randn(2, 6, 4, 8, requires_grad=True)
    labels, boxes = torch.full((2, 6), -1), torch.zeros(2, 6, 4)
    losses = gfl_loss(logits, sides, labels, boxes, torch.rand(6, 2) * 50, torch.full((6,), 8.0))
    sum(losses.values()).backward()
    assert losses["box"] == losses["distribution"] == 0
    assert losses["classification"] > 0
    assert not sides.grad.any()
    assert logits.grad.isfinite().all()


def tood_levels(case: Case) -> list[dict[str, Tensor]]:
    levels = []
    for level in range(case.param("num_levels")):
        take = {name: case[f"in_{name}_l{level}"] for name in ("cls_score", "bbox_pred")}
        stride = case.param(f"stride_l{level}")
        levels.append(
            {
                **{name: tensor.requires_grad_() for name, tensor in take.items()},
                "scores": rows(take["cls_score"]),
                "predicted": rows(take["bbox_pred"]),
                "labels": with_background(case[f"in_labels_l{level}"], case.param("num_classes")),
                "boxes": case[f"in_bbox_targets_l{level}"] / stride,
                "centers": centers_of(case[f"in_anchors_l{level}"]) / stride,
                "metrics": case[f"in_alignment_metrics_l{level}"],
                "label_weight": case[f"in_label_weights_l{level}"],
            }
        )
    return levels


@pytest.mark.parametrize("file", golden_cases("losses/tood_head_loss"))
def test_golden_tood_head_loss(file: Path) -> None:
    case = load_case(file)
    levels = tood_levels(case)
    whole = {name: torch.cat([level[name] for level in levels]) for name in list(levels[0])[2:]}

    def loss(part: dict[str, Tensor]) -> dict[str, Tensor]:
        common = (part["scores"], part["predicted"], part["labels"], part["boxes"])
        if case.param("initial_stage"):
            return tood_warmup_loss(*common, part["centers"], label_weight=part["label_weight"])
        return tood_loss(*common, part["metrics"])

    losses = loss(whole)
    close(losses["classification"], case["out_loss_cls"])
    close(losses["box"], case["out_loss_bbox"])
    for index, level in enumerate(levels):
        parts = loss(level)
        for term, short in (("classification", "cls"), ("box", "bbox")):
            # a level without positives is divided by 1 in both
            norm = case[f"out_{short}_norm_l{index}"]
            close(parts[term] * torch.where(norm > 0, norm, 1), case[f"out_raw_loss_{short}_l{index}"])
    sum(losses.values()).backward()
    for index, level in enumerate(levels):
        close(level["cls_score"].grad, case[f"grad_cls_score_l{index}"])
        close(level["bbox_pred"].grad, case[f"grad_bbox_pred_l{index}"])


@pytest.mark.parametrize("share", [2e-13, 2e-12])
def test_next_to_no_alignment_divides_by_1(share: float) -> None:
    """As the original has it: a sum of metrics below 1e-12 counts as nothing."""
    logits, boxes = torch.randn(1, 3, dtype=torch.float64), torch.tensor([[0.0, 0.0, 4.0, 4.0]]).double()
    given = (boxes + 1, torch.tensor([1]), boxes, torch.tensor([share]).double())
    losses = tood_loss(logits, *given, from_logits=True)
    divisor = share if share > 1e-12 else 1.0
    p = logits.sigmoid()
    close(losses["classification"], -(p.square() * (1 - p).log()).sum() / divisor)
    close(losses["box"], 2 * share * giou_loss(*given[::2]).sum() / divisor)


def matches(case: Case) -> tuple[Tensor, Tensor]:
    """Labels (B, Q) and boxes (B, Q, 4) of the matched objects."""
    logits = case["in_pred_logits"]
    labels, boxes = torch.full(logits.shape[:2], -1), torch.zeros(*logits.shape[:2], 4, dtype=torch.float64)
    for image in range(len(logits)):
        source, target = case[f"in_src_idx_img{image}"], case[f"in_tgt_idx_img{image}"]
        labels[image, source] = case[f"in_labels_img{image}"][target]
        boxes[image, source] = case[f"in_boxes_img{image}"][target]
    return labels, boxes


@pytest.mark.parametrize("file", golden_cases("losses/rtdetr_set_losses"))
def test_golden_rtdetr_set_losses(file: Path) -> None:
    case = load_case(file)
    logits, predicted = case["in_pred_logits"].requires_grad_(), case["in_pred_boxes"].requires_grad_()
    labels, boxes = matches(case)
    alpha, gamma = case.param("alpha"), case.param("gamma")
    kinds = {"vfl": VarifocalLoss(alpha, gamma, detach=True), "focal": SigmoidFocalLoss(alpha, gamma)}
    for name, classification in kinds.items():
        losses = set_prediction_loss(
            logits, predicted, labels, boxes, classification, normalizer=case.param("num_boxes")
        )
        close(losses["classification"], case[f"out_loss_{name}"])
        gradient = torch.autograd.grad(losses["classification"], logits)[0]
        close(gradient, case[f"grad_pred_logits_{name}"])
    for name, golden, saved in (("l1", "bbox", "l1"), ("giou", "giou", "giou")):
        close(losses[name], case[f"out_loss_{golden}"])
        gradient = torch.autograd.grad(losses[name], predicted, retain_graph=True)[0]
        close(gradient, case[f"grad_pred_boxes_{saved}"])


def test_detr_weighs_unmatched_queries_down() -> None:
    logits, labels = torch.randn(2, 5, 4), torch.tensor([[0, -1, -1, 2, -1], [-1] * 5])
    predicted = torch.rand(2, 5, 4)
    losses = set_prediction_loss(
        logits, predicted, labels, torch.rand(2, 5, 4), SoftmaxCrossEntropyLoss(), background_weight=0.1
    )
    columns = torch.where(labels < 0, 3, labels)
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), columns.flatten(), weight=torch.tensor([1.0, 1.0, 1.0, 0.1])
    )
    close(losses["classification"], expected, tolerance=1e-5)


def test_a_quality_loss_may_weigh_unmatched_queries_down_too() -> None:
    logits, labels = torch.randn(2, 5, 4), torch.tensor([[0, -1, -1, 2, -1], [-1] * 5])
    predicted, boxes = torch.rand(2, 2, 5, 4)
    losses = set_prediction_loss(logits, predicted, labels, boxes, VarifocalLoss(), background_weight=0.1)
    quality = aligned_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(boxes))
    weight = torch.where(labels < 0, 0.1, 1.0)
    expected = VarifocalLoss(reduction="sum")(logits, labels, scores=quality, weight=weight) / weight.sum()
    close(losses["classification"], expected, tolerance=1e-5)


PRIORS = 600  # more than bfloat16 can count
LABELS = torch.randint(-1, 3, (2, PRIORS))
GOAL = torch.rand(2, PRIORS, 4).cumsum(-1) * 50
SHARE = torch.rand(2, PRIORS)
STRIDES = torch.full((PRIORS,), 8.0)
SYSTEMS: dict[str, tuple[Callable[..., dict[str, Tensor]], Tensor]] = {
    "gfl": (lambda x, d: gfl_loss(x, d, LABELS, GOAL, torch.zeros(PRIORS, 2), STRIDES), torch.randn(2, PRIORS, 4, 9)),
    "tood": (lambda x, b: tood_loss(x, b, LABELS, GOAL, SHARE * (LABELS >= 0), from_logits=True), GOAL * 0.9),
    "tood's warm-up": (
        lambda x, b: tood_warmup_loss(x, b, LABELS, GOAL, GOAL[..., :2] + 20, from_logits=True),
        GOAL * 0.9,
    ),
    "rt-detr": (
        lambda x, b: set_prediction_loss(x, b, LABELS, GOAL / 400, VarifocalLoss(detach=True)),
        GOAL / 450,
    ),
    "detr": (
        lambda x, b: set_prediction_loss(x, b, LABELS, GOAL / 400, SoftmaxCrossEntropyLoss(), background_weight=0.1),
        GOAL / 450,
    ),
    "ssd": (lambda x, d: multibox_loss(d, x, GOAL, LABELS + 1), torch.randn(2, PRIORS, 4)),
    "faster r-cnn": (
        lambda x, d: faster_rcnn_loss(*[StageOutput(x, LABELS, d, GOAL, torch.ones(2, PRIORS), SHARE)] * 2),
        torch.randn(2, PRIORS, 4),
    ),
}


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(system: str, dtype: torch.dtype) -> None:
    loss, boxes = SYSTEMS[system]
    rounded = torch.randn(2, PRIORS, 4).to(dtype), boxes.to(dtype)
    wide = [tensor.float() for tensor in rounded]
    expected = loss(*wide)
    torch.testing.assert_close(loss(*rounded), expected, rtol=1e-5, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(loss(*wide), expected, rtol=0, atol=0)
