"""DFL with its integral, and D-FINE's fine-grained localisation and distillation, against golden data."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from boxwright.boxes import FineGrainedCoder, aligned_iou, cxcywh_to_xyxy, xyxy_to_cxcywh
from boxwright.losses.distribution import (
    FineGrainedLocalizationLoss,
    bin_targets,
    distribution_focal_loss,
    fine_grained_localization_loss,
    integral,
    localization_distillation_loss,
    weighting_function,
)
from boxwright.structures import Priors
from goldens import Case, golden_cases, load_case

EXACT = {"rtol": 1e-9, "atol": 1e-9}


@pytest.mark.parametrize("file", golden_cases("losses/dfl"))
def test_dfl_matches_gfocal(file: Path) -> None:
    case = load_case(file)
    logits, targets, weight = (
        case["in_logits"].requires_grad_(),
        case["in_targets"].requires_grad_(),
        case.get("in_weight"),
    )
    loss = distribution_focal_loss(logits, targets, weight=weight)
    torch.testing.assert_close(loss, case["out_loss_none"], **EXACT)
    grads = torch.autograd.grad(loss.sum(), (logits, targets))
    torch.testing.assert_close(grads[0], case["grad_logits_of_sum"], **EXACT)
    if "grad_targets_of_sum" in case:
        torch.testing.assert_close(grads[1], case["grad_targets_of_sum"], **EXACT)
    for reduction in ("mean", "sum"):
        value = distribution_focal_loss(logits, targets, weight=weight, reduction=reduction)
        torch.testing.assert_close(value, case[f"out_loss_{reduction}"], **EXACT)
    if "param_avg_factor" in case:
        value = distribution_focal_loss(
            logits, targets, weight=weight, reduction="mean", normalizer=case.param("avg_factor")
        )
        torch.testing.assert_close(value, case["out_loss_avg_factor"], **EXACT)


@pytest.mark.parametrize("file", golden_cases("losses/dfl"))
def test_integral_matches_gfocal(file: Path) -> None:
    case = load_case(file)
    logits = case["in_logits"].requires_grad_()
    distances = integral(logits).view(-1, 4)
    torch.testing.assert_close(distances, case["out_integral"], **EXACT)
    (distances * torch.arange(1, 5)).sum().backward()
    torch.testing.assert_close(logits.grad, case["grad_logits_of_integral_weighted"], **EXACT)


def test_dfl_takes_the_last_bin_and_clips_beyond() -> None:
    logits = torch.randn(3, 5)
    loss = distribution_focal_loss(logits, torch.tensor([4.0, 7.5, -2.0]))
    log_p = logits.log_softmax(-1)
    torch.testing.assert_close(loss, -torch.stack([log_p[0, 4], log_p[1, 4], log_p[2, 0]]))


def matches(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Image and query index of every match, and the box of its object, in the order of the images."""
    images, queries, boxes = [], [], []
    for image in range(len(case["in_ref_points"])):
        source, target = case[f"in_src_idx_img{image}"], case[f"in_tgt_idx_img{image}"]
        images.append(torch.full_like(source, image))
        queries.append(source)
        boxes.append(case[f"in_boxes_img{image}"][target])
    return torch.cat(images), torch.cat(queries), torch.cat(boxes)


@pytest.mark.parametrize("file", golden_cases("losses/dfine_fgl_ddf"))
def test_fine_grained_localization_matches_dfine(file: Path) -> None:
    case = load_case(file)
    scale = case.param("reg_scale")
    values = weighting_function(case.param("reg_max"), case.param("up"), scale)
    torch.testing.assert_close(values, case["out_weighting_function"], **EXACT)
    images, queries, boxes = matches(case)
    coder = FineGrainedCoder(case.param("reg_max"), case.param("up"), scale)
    references = case["in_ref_points"]
    center, unit = references[images, queries, :2], references[images, queries, 2:] / scale
    corners = cxcywh_to_xyxy(boxes)
    distances = torch.cat([(center - corners[:, :2]) / unit, (corners[:, 2:] - center) / unit], dim=-1) - scale / 2
    priors = Priors(cxcywh_to_xyxy(references[images, queries]), center, torch.ones(len(center)))
    torch.testing.assert_close(coder.encode(priors, corners), distances, **EXACT)
    moved = coder.move(cxcywh_to_xyxy(references), case["in_distance"])
    torch.testing.assert_close(xyxy_to_cxcywh(moved), case["out_decoded_boxes"], **EXACT)
    left, right_weight = bin_targets(distances, values)
    torch.testing.assert_close(left.flatten().double(), case["out_target_bins"].floor(), **EXACT)
    torch.testing.assert_close(right_weight.flatten(), case["out_target_weight_right"], **EXACT)

    corners = case["in_pred_corners"].requires_grad_()
    logits = corners.unflatten(-1, (4, -1))[images, queries]
    overlap = aligned_iou(cxcywh_to_xyxy(case["in_pred_boxes"][images, queries]), cxcywh_to_xyxy(boxes), eps=0.0)
    loss = fine_grained_localization_loss(
        logits, distances, values=values, weight=overlap, reduction="mean", normalizer=case.param("num_boxes")
    )
    torch.testing.assert_close(loss, case["out_loss_fgl"], **EXACT)
    loss.backward()
    torch.testing.assert_close(corners.grad, case["grad_pred_corners_fgl"], **EXACT)


@pytest.mark.parametrize("file", golden_cases("losses/dfine_fgl_ddf"))
def test_distillation_matches_dfine(file: Path) -> None:
    case = load_case(file)
    images, queries, boxes = matches(case)
    corners = case["in_pred_corners"].requires_grad_()
    weight = case["in_teacher_logits"].sigmoid().amax(-1)
    weight[images, queries] = aligned_iou(
        cxcywh_to_xyxy(case["in_pred_boxes"][images, queries]), cxcywh_to_xyxy(boxes), eps=0.0
    )
    matched = torch.zeros_like(weight, dtype=torch.bool)
    matched[images, queries] = True
    loss = localization_distillation_loss(
        corners.unflatten(-1, (4, -1)),
        case["in_teacher_corners"].unflatten(-1, (4, -1)),
        matched,
        weight=weight,
        temperature=case.param("temperature"),
    )
    torch.testing.assert_close(loss, case["out_loss_ddf"], **EXACT)
    loss.backward()
    torch.testing.assert_close(corners.grad, case["grad_pred_corners_ddf"], **EXACT)
    ratio = case.param("num_pos") if "param_num_pos" in case else case["out_num_pos"].item()
    assert math.isclose(ratio, math.sqrt(8 / len(corners) * 4 * matched.sum().item()))


def test_a_student_equal_to_its_teacher_costs_nothing() -> None:
    logits = torch.randn(2, 3, 4, 9)
    matched = torch.zeros(2, 3, dtype=torch.bool)
    loss = localization_distillation_loss(logits, logits, matched, weight=torch.ones(2, 3))
    torch.testing.assert_close(loss, torch.zeros(()), atol=1e-6, rtol=0)


def test_a_distillation_is_computed_in_float32_and_moves_the_student_alone() -> None:
    student, teacher, weight = (torch.randn(shape) for shape in ((2, 3, 4, 9), (2, 3, 4, 9), (2, 3)))
    given = [part.half().requires_grad_() for part in (student, teacher, weight)]
    matched = torch.tensor([[True, False, True], [False, False, True]])
    loss = localization_distillation_loss(given[0], given[1], matched, weight=given[2])
    rounded = [part.detach().float() for part in given]
    torch.testing.assert_close(loss, localization_distillation_loss(*rounded[:2], matched, weight=rounded[2]))
    loss.backward()
    assert [part.grad is not None for part in given] == [True, False, False]


def test_a_distillation_of_nothing_costs_nothing() -> None:
    logits = torch.randn(2, 0, 4, 9, requires_grad=True)
    nobody = torch.zeros(2, 0)
    loss = localization_distillation_loss(logits, logits, nobody > 0, weight=nobody)
    loss.backward()
    assert loss == 0
    assert logits.grad is not None


def test_bins_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"values \(33,\) must be one per bin of inputs \(2, 4, 9\)"):
        FineGrainedLocalizationLoss(bins=32)(torch.zeros(2, 4, 9), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"two bins or more, got shape \(3, 1\)"):
        distribution_focal_loss(torch.zeros(3, 1), torch.zeros(3))


def test_the_coder_reads_the_bins_that_the_loss_trains() -> None:
    certain = 1e3 * torch.eye(33).repeat(1, 4)
    expected = FineGrainedLocalizationLoss().values.float()
    torch.testing.assert_close(FineGrainedCoder().offsets(certain), expected.unsqueeze(1).expand(-1, 4))


def test_half_precision_targets_and_autocast_lose_no_digits() -> None:
    logits, targets = torch.randn(50, 4, 9), (torch.rand(50, 4) * 8 - 4).bfloat16()
    loss = FineGrainedLocalizationLoss(bins=8)
    torch.testing.assert_close(loss(logits, targets), loss(logits, targets.float()))
    mean = integral(logits)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(integral(logits), mean, rtol=0, atol=0)


@pytest.mark.parametrize(("shapes", "named"), [
    ({"teacher": (2, 5, 4, 9)}, r"\(2, 6, 4, 9\) and \(2, 5, 4, 9\)"),
    ({"matched": (2, 5)}, r"matched must have shape \(2, 6\), got \(2, 5\)"),
    ({"weight": (6,)}, r"weight must have shape \(2, 6\), got \(6,\)"),
])  # fmt: skip
def test_a_distillation_that_does_not_fit_is_refused(shapes: dict[str, tuple[int, ...]], named: str) -> None:
    shape = {"inputs": (2, 6, 4, 9), "teacher": (2, 6, 4, 9), "matched": (2, 6), "weight": (2, 6)} | shapes
    inputs, teacher, matched, weight = (torch.rand(shape) for shape in shape.values())
    with pytest.raises(ValueError, match=named):
        localization_distillation_loss(inputs, teacher, matched > 0.5, weight=weight)


@pytest.mark.parametrize(
    ("matched", "temperature", "error", "words"),
    [
        (torch.ones(1, 2, dtype=torch.int64), 5.0, TypeError, "matched must be bool, got torch.int64"),
        (torch.ones(1, 2, dtype=torch.bool), 0.0, ValueError, r"temperature must be positive, got 0\.0"),
    ],
)
def test_a_distillation_that_cannot_be_meant_is_refused(
    matched: torch.Tensor, temperature: float, error: type[Exception], words: str
) -> None:
    logits = torch.randn(1, 2, 4, 9)
    with pytest.raises(error, match=words):
        localization_distillation_loss(logits, logits, matched, weight=torch.ones(1, 2), temperature=temperature)
