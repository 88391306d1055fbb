"""Hard and soft suppression against torchvision, mmcv, SSD and effdet."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from boxwright.boxes import box_iou, multiclass_nms, soft_nms
from boxwright.boxes.suppress import suppress
from goldens import golden_cases, load_case


def _detect(case, function, labels: Tensor, **options) -> dict[str, Tensor]:
    """Suppress one image's boxes with room for all of them."""
    boxes, scores = case["in_boxes"][None], case["in_scores"][None]
    return function(boxes, scores, labels[None], max_detections=boxes.shape[1], **options)[0]


def _first(case, index: list[int]) -> dict[str, Tensor]:
    """The case with these boxes before the others, so that they go first among equal scores."""
    order = torch.tensor(index + [i for i in range(len(case["in_boxes"])) if i not in index])
    return {**case, "in_boxes": case["in_boxes"][order], "in_scores": case["in_scores"][order]}


def _rows(boxes: Tensor, scores: Tensor) -> Tensor:
    """Boxes and scores as rows in an order that does not depend on ties."""
    rows = torch.cat([boxes, scores[:, None]], dim=1)
    return torch.tensor(sorted(rows.round(decimals=4).tolist())).reshape(-1, 5)


@pytest.mark.parametrize("file", golden_cases("assigners/nms"))
def test_hard_nms_equals_torchvision(file):
    case = load_case(file)
    one_class = torch.zeros_like(case["in_classes"])
    for labels, expected in ((one_class, "out_tv_nms"), (case["in_classes"], "out_tv_batched_nms")):
        found = _detect(case, multiclass_nms, labels, iou_threshold=case.param("iou_threshold"), score_threshold=-1.0)
        assert torch.equal(found["boxes"], case["in_boxes"][case[expected]])
        assert torch.equal(found["scores"], case["in_scores"][case[expected]])
    vanilla = case["out_tv_batched_nms_vanilla"]  # class by class, which leaves the order of equal scores open
    expected = _rows(case["in_boxes"][vanilla], case["in_scores"][vanilla])
    assert torch.equal(_rows(found["boxes"], found["scores"]), expected)


@pytest.mark.parametrize(
    ("golden", "offset"), [("out_mmcv_nms_offset0", 0), ("out_mmcv_nms_offset1", 1), ("out_ssd_nms", 0)]
)
@pytest.mark.parametrize("file", golden_cases("assigners/nms"))
def test_hard_nms_equals_mmcv_and_ssd(file, golden, offset):
    """Both sort unstably: what they kept comes first here among equal scores. Older code ends a box at its last pixel.

    SSD drops what overlaps by 0 / 0, of which nobody else takes notice.
    """
    case = load_case(file)
    boxes = case["in_boxes"] + offset * torch.tensor([0.0, 0.0, 1.0, 1.0])
    if golden == "out_ssd_nms" and not (boxes[:, 2:] > boxes[:, :2]).all():
        pytest.skip("boxes without area")
    kept = case[golden].tolist()
    turned = _first({**case, "in_boxes": boxes}, kept)
    labels, threshold = torch.zeros_like(case["in_classes"]), case.param("iou_threshold")
    found = _detect(turned, multiclass_nms, labels, iou_threshold=threshold, score_threshold=-1.0)
    assert torch.equal(found["boxes"], boxes[kept])
    assert torch.equal(found["scores"], case["in_scores"][kept])


def _soft(case, method: str, threshold: float, first: list[int]) -> dict[str, Tensor]:
    """Soft suppression in one class, these boxes first among equal scores."""
    options = {"sigma": case.param("soft_sigma"), "score_threshold": case.param("soft_min_score")}
    labels = torch.zeros_like(case["in_classes"])
    return _detect(_first(case, first), soft_nms, labels, method=method, iou_threshold=threshold, **options)


@pytest.mark.parametrize("method", ["linear", "gaussian"])
@pytest.mark.parametrize("file", golden_cases("assigners/nms"))
def test_soft_nms_equals_mmcv(file, method):
    """Of equal scores mmcv takes any: what it took comes first here. At 0 / 0 its gaussian is NaN, ours the score."""
    case = load_case(file)
    index, expected = case[f"out_mmcv_soft_{method}_index"], case[f"out_mmcv_soft_{method}_dets"]
    found = _soft(case, method, case.param("iou_threshold"), index.tolist())
    scores = torch.where(expected[:, 4].isnan(), case["in_scores"][index], expected[:, 4])
    assert torch.equal(expected[:, :4], case["in_boxes"][index])
    found = _rows(found["boxes"], found["scores"])
    torch.testing.assert_close(found, _rows(expected[:, :4], scores), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("method", ["linear", "gaussian"])
@pytest.mark.parametrize("file", golden_cases("assigners/nms"))
def test_soft_nms_equals_effdet(file, method):
    """At the threshold itself effdet keeps the score; the paper, mmcv and we lower it."""
    case = load_case(file)
    found = _soft(case, method, case.param("iou_threshold") + 1e-6, [])
    kept = case["in_boxes"][case[f"out_effdet_soft_{method}_index"]]
    expected = _rows(kept, case[f"out_effdet_soft_{method}_score"])
    torch.testing.assert_close(_rows(found["boxes"], found["scores"]), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("file", golden_cases("assigners/nms"))
def test_hard_nms_equals_naive_soft_nms_of_mmcv(file):
    """Its naive form drops where linear lowers, so that the threshold itself is too much; ties as above."""
    case = load_case(file)
    index, dets = case["out_mmcv_soft_naive_index"], case["out_mmcv_soft_naive_dets"]
    turned = _first(case, index.tolist())
    labels, below = torch.zeros_like(case["in_classes"]), case.param("iou_threshold") - 1e-6
    least = case.param("soft_min_score")
    found = _detect(turned, multiclass_nms, labels, iou_threshold=below, score_threshold=least)
    assert torch.equal(torch.cat([found["boxes"], found["scores"][:, None]], dim=1), dets)
    assert torch.equal(found["boxes"], case["in_boxes"][index])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 3), st.integers(0, 12), st.integers(1, 15), st.integers(0, 10_000))
def test_batches_equal_single_images_and_brute_force(images, count, most, seed):
    draw = torch.Generator().manual_seed(seed)
    low = torch.rand(images, count, 2, generator=draw) * 20
    boxes = torch.cat([low, low + torch.rand(images, count, 2, generator=draw) * 20], dim=-1)
    scores = torch.randint(0, 8, (images, count), generator=draw) / 8  # ties, and zeros that do not take part
    labels = torch.randint(0, 2, (images, count), generator=draw)
    detections = multiclass_nms(boxes, scores, labels, iou_threshold=0.4, max_detections=most)
    soft = soft_nms(boxes, scores, labels, max_detections=most)
    assert detections.boxes.shape == soft.boxes.shape == (images, most, 4)
    for image in range(images):
        order = sorted(range(count), key=lambda i: (-scores[image, i].item(), i))
        kept: list[int] = []
        for i in order:
            rivals = [k for k in kept if labels[image, k] == labels[image, i]]
            overlap = box_iou(boxes[image, [i]].double(), boxes[image, rivals].double())
            if scores[image, i] > 0 and not (overlap > 0.4).any():
                kept.append(i)
        assert torch.equal(detections[image]["boxes"], boxes[image, kept[:most]])
        alone = soft_nms(boxes[[image]], scores[[image]], labels[[image]], max_detections=most)
        assert torch.equal(alone.scores[0], soft.scores[image])
    assert (soft.scores.diff(dim=1) <= 0).all()


@pytest.mark.parametrize(
    ("function", "left"), [(multiclass_nms, [0.9, 0.8]), (soft_nms, [0.9, 0.8, 0.7 * math.exp(-2)])]
)
def test_only_boxes_of_one_class_disturb_each_other(function, left):
    """Three boxes at one place, of which two are of one class; what is no detection is zero."""
    boxes = torch.tensor([[[1.0, 2, 11, 12]] * 3])
    found = function(boxes, torch.tensor([[0.8, 0.7, 0.9]]), torch.tensor([[5, 2, 2]]), max_detections=4)
    assert found.count.tolist() == [len(left)]
    assert found.scores[0].tolist() == pytest.approx([*left, *[0.0] * (4 - len(left))])
    assert found.labels[0].tolist() == [2, 5, 2][: len(left)] + [0] * (4 - len(left))
    assert torch.equal(found.boxes[0], boxes[0, :1] * (found.scores[0, :, None] > 0))


def test_classes_far_apart_in_number_do_not_disturb_each_other():
    """The offset trick in float32 would move boxes of class 10⁶ onto multiples of a large step."""
    boxes = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 4.9], [0.0, 0.0, 10.0, 5.1]]])
    labels = torch.full((1, 3), 1_000_003)
    detections = multiclass_nms(boxes, torch.tensor([[0.9, 0.8, 0.7]]), labels, iou_threshold=0.5)
    assert detections[0]["scores"].tolist() == pytest.approx([0.9, 0.8])


@pytest.mark.parametrize("function", [multiclass_nms, soft_nms])
def test_numbers_that_are_none_disturb_nobody(function):
    nan, inf = float("nan"), float("inf")
    boxes = torch.tensor([[[0.0, 0, 10, 10], [nan, nan, nan, nan], [5, 5, 1, 1], [20, 20, inf, 30], [30, 0, 40, 9]]])
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.6, nan]])
    detections = function(boxes, scores, torch.zeros(1, 5, dtype=torch.int64), max_detections=5)
    assert detections.count.tolist() == [4]
    assert detections.scores[0].tolist() == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.0])


@pytest.mark.parametrize(("images", "candidates"), [(2, 12), (3, 0), (0, 4)])
def test_the_operator_for_traced_graphs_is_the_same(images, candidates):
    low = torch.rand(images, candidates, 2) * 20
    boxes, scores = torch.cat([low, low + 15], dim=-1), torch.rand(images, candidates)
    labels = torch.randint(3, (images, candidates))
    kept = multiclass_nms(boxes, scores, labels, iou_threshold=0.3, max_detections=5)
    found = suppress(boxes, scores, labels, 3, 0.3, 5)
    for one, other in zip(found, (kept.boxes, kept.scores, kept.labels, kept.count), strict=True):
        assert torch.equal(one, other)
    torch.library.opcheck(torch.ops.boxwright.suppress.default, (boxes, scores, labels, 3, 0.3, 5))


def test_an_unknown_way_of_lowering_is_named():
    with pytest.raises(ValueError, match="'linear' or 'gaussian', got 'hard'"):
        soft_nms(torch.zeros(1, 2, 4), torch.ones(1, 2), torch.zeros(1, 2, dtype=torch.int64), method="hard")
