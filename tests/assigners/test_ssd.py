"""Multibox matching against SSD's own, and against taking the best pair again and again."""

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from boxwright.assigners import SSDAssigner
from boxwright.assigners.blocks import BLOCK_ELEMENTS
from boxwright.boxes import DeltaCoder, box_iou, cxcywh_to_xyxy
from boxwright.structures import Priors, Targets
from goldens import golden_cases, load_case


def _priors(boxes: Tensor) -> Priors:
    return Priors(boxes, (boxes[:, :2] + boxes[:, 2:]) / 2, torch.ones(len(boxes)))


def _targets(*images: Tensor) -> Targets:
    return Targets.from_list([{"boxes": b, "labels": torch.arange(len(b))} for b in images])


def _originally(overlap: Tensor, threshold: float) -> Tensor:
    """ssd.pytorch: every object overwrites its best prior, the last one wins."""
    best, index = overlap.max(dim=0)
    for gt, prior in enumerate(overlap.argmax(dim=1).tolist()):
        best[prior], index[prior] = 2, gt
    return torch.where(best < threshold, -1, index)


def _best_pair_first(overlap: Tensor, threshold: float) -> Tensor:
    """Ours: the best remaining pair of object and prior, while any overlaps."""
    best, index = (t.clone() for t in overlap.max(dim=0))
    left = overlap.clone()
    while left.numel() and left.max() > 0:
        gt, prior = divmod(int(left.argmax()), left.shape[1])
        best[prior], index[prior] = 2, gt
        left[gt], left[:, prior] = 0, 0
    return torch.where(best < threshold, -1, index)


@pytest.mark.parametrize("file", golden_cases("assigners/ssd_match"))
def test_matches_equal_ssd_but_no_object_loses_its_prior(file):
    """The reference written here gives the golden labels; with its flaw mended it gives ours."""
    case = load_case(file)
    threshold, boxes = case.param("threshold"), case["in_gt_boxes"]
    priors = _priors(cxcywh_to_xyxy(case["in_priors_cxcywh"]))
    overlap = box_iou(boxes, priors.boxes)
    if case["out_jaccard"].numel():
        torch.testing.assert_close(overlap, case["out_jaccard"], atol=1e-5, rtol=1e-5)
    original = _originally(overlap, threshold)
    labels = torch.where(original >= 0, case["in_gt_labels"][original.clamp(min=0)] + 1, 0)
    assert torch.equal(labels, case["out_conf_t"])
    targets = _targets(boxes)
    assignment = SSDAssigner(threshold)(priors, targets)
    assert torch.equal(assignment.gt_index[0], _best_pair_first(overlap, threshold))
    assert set((overlap.amax(dim=1) > 0).nonzero()[:, 0].tolist()) <= set(assignment.gt_index[0].tolist())

    first, second = case["param_variances"].tolist()
    deltas = DeltaCoder(stds=(first, first, second, second)).encode(priors, boxes[original.clamp(min=0)])
    matched = original >= 0
    torch.testing.assert_close(deltas[matched], case["out_loc_t"][matched], atol=1e-4, rtol=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 6), st.integers(0, 6), st.integers(1, 12), st.integers(0, 10_000), st.booleans())
def test_batches_equal_brute_force(first, second, count, seed, whole):
    draw = torch.Generator().manual_seed(seed)

    def boxes(number: int) -> Tensor:
        low, size = torch.rand(number, 2, generator=draw) * 20, torch.rand(number, 2, generator=draw) * 20
        drawn = torch.cat([low, low + size], dim=1)
        return drawn.round() if whole else drawn  # whole pixels: ties, duplicates, boxes without area

    priors, images = _priors(boxes(count)), (boxes(first), boxes(second))
    targets = _targets(*images)
    assigner = SSDAssigner()
    assignment = assigner(priors, targets)
    for image, objects in enumerate(images):
        if len(objects) == 0:
            assert (assignment.gt_index[image] == -1).all()
            continue
        expected = _best_pair_first(box_iou(objects, priors.boxes), 0.5)
        assert torch.equal(assignment.gt_index[image], expected)
    with mock.patch.dict(BLOCK_ELEMENTS, cpu=1):
        tight = assigner(priors, targets)
    assert torch.equal(tight.gt_index, assignment.gt_index)


def test_crowd_is_ignored_and_duplicates_share_nothing():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [30, 30, 40, 40], [50, 50, 60, 60]])
    targets = Targets.from_list(
        [
            {
                "boxes": torch.tensor([[29.0, 29, 41, 41], [0, 0, 10, 10], [0, 0, 10, 10], [80, 80, 90, 90]]),
                "labels": torch.zeros(4, dtype=torch.int64),
                "iscrowd": torch.tensor([1, 0, 0, 0]),
            }
        ]
    )
    assignment = SSDAssigner()(_priors(boxes), targets)
    assert assignment.gt_index.tolist() == [[1, 2, -2, -1]]
    assert assignment.score.tolist() == [[1.0, 1.0, 0.0, 0.0]]


def test_positive_iou_is_inclusive_and_what_overlaps_nothing_is_background():
    priors = _priors(torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 4], [10, 0, 20, 10]]))
    targets = _targets(torch.tensor([[0.0, 0, 10, 10]]))
    assert SSDAssigner()(priors, targets).gt_index.tolist() == [[0, 0, -1, -1]]
    assert SSDAssigner(positive_iou=0.0)(priors, targets).gt_index.tolist() == [[0, 0, 0, -1]]


def test_an_object_moves_on_up_to_its_eighth_prior():
    boxes = torch.tensor([[0.0, 0, 10, 10 - side] for side in range(12)]) + 1
    objects = boxes[:1].expand(10, 4)  # of equal objects the first goes first
    assert SSDAssigner(1.0)(_priors(boxes), _targets(objects)).gt_index.tolist() == [[*range(8), -1, -1, -1, -1]]


def test_one_graph():
    priors = _priors(torch.tensor([[0.0, 0, 10, 10], [5, 5, 20, 20], [8, 8, 30, 30]]))
    targets = _targets(torch.tensor([[0.0, 0, 9, 9], [6, 6, 20, 22]]), torch.zeros(0, 4))
    compiled = torch.compile(SSDAssigner(), fullgraph=True, backend="eager")
    assert torch.equal(compiled(priors, targets).gt_index, SSDAssigner()(priors, targets).gt_index)
