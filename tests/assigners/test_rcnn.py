"""The target rules of Faster R-CNN against its first TensorFlow port."""

import pytest
import torch
from torch import Tensor

from boxwright.assigners import MaxIoUAssigner, ProposalAssigner, RandomSampler, RPNAssigner, with_objects
from boxwright.assigners.rcnn import _sample
from boxwright.boxes import AnchorGenerator, DeltaCoder, box_iou
from boxwright.structures import Assignment, Priors, Targets
from goldens import golden_cases, load_case

LAST_PIXEL = torch.tensor([0.0, 0.0, 1.0, 1.0])  # older code ends a box at its last pixel, not after it


def _targets(rows: Tensor, first_class: int) -> Targets:
    return Targets.from_list([{"boxes": rows[:, :4] + LAST_PIXEL, "labels": rows[:, 4].long() - first_class}])


def _proposals(boxes: Tensor) -> Priors:
    boxes = (boxes + LAST_PIXEL)[None]
    return Priors(boxes, (boxes[..., :2] + boxes[..., 2:]) / 2, torch.ones(boxes.shape[1]))


@pytest.mark.parametrize("file", golden_cases("assigners/frcnn_anchor_target"))
def test_anchor_targets_equal_the_original(file):
    case = load_case(file)
    (height, width), stride = case["in_feat_hw"].tolist(), case.param("feat_stride")
    priors = AnchorGenerator.rcnn((stride,), case["param_anchor_scales"].tolist())([(height, width)])
    per_cell = len(case["param_anchor_scales"]) * 3
    targets = _targets(case["in_gt_boxes5"], 0)
    extent = case["in_im_info"][0, :2].tolist()
    used = ((priors.boxes >= 0) & (priors.boxes <= torch.tensor([*extent[::-1], *extent[::-1]]))).all(dim=1)
    thresholds = (case.param("rpn_positive_overlap"), case.param("rpn_negative_overlap"))
    if extent == [height * stride, width * stride]:
        assert torch.equal(~used, RPNAssigner(*thresholds, count=10**6)(priors, targets).ignored[0] & ~used)

    def assign(count: int, share: float) -> Assignment:
        """RPNAssigner with the image's own extent, which the original knows."""
        rule = MaxIoUAssigner(*thresholds, keep_argmax=True)
        return _sample(rule, priors, used, targets, RandomSampler(count, share))

    def anchor_order(maps: Tensor) -> Tensor:
        """(1, A · n, H, W) or (1, 1, A · H, W) to (L, n)."""
        return maps.reshape(per_cell, -1, height, width).permute(2, 3, 0, 1).flatten(0, 2)

    everything = assign(10**6, 0.5)
    best = box_iou(priors.boxes, targets.boxes[0]).amax(dim=1)
    golden = anchor_order(case["out_nosample_labels"])[:, 0]
    mended = torch.where(used & (best == 0), 0, golden)  # it makes them positive where an object overlaps nothing
    found = everything.gt_index[0].clamp(max=0) + 1.0  # -1 ignored, 0 background, 1 object
    if case.param("rpn_clobber_positives"):  # not offered: an object's best anchor is background below the threshold
        found = torch.where(used & (best < thresholds[1]), 0, found)
    assert torch.equal(found, mended)

    positive = found == 1
    deltas = DeltaCoder().encode(priors, everything.boxes(targets)[0])[positive]
    expected = anchor_order(case["out_nosample_bbox_targets"])[positive]
    torch.testing.assert_close(deltas, expected, atol=1e-4, rtol=1e-5)
    if not torch.equal(mended, golden):
        return
    inside = anchor_order(case["out_nosample_inside_weights"])
    torch.testing.assert_close(inside, positive[:, None] * case["param_rpn_bbox_inside_weights"].float())
    share = case.param("rpn_positive_weight")
    of_positive, of_background = share / positive.sum(), (1 - share) / (found == 0).sum()
    if share < 0:  # then every used anchor weighs one over their number
        of_positive = of_background = 1 / (found >= 0).sum()
    weight = torch.where(positive, of_positive, torch.where(found == 0, of_background, 0.0))
    torch.testing.assert_close(anchor_order(case["out_nosample_outside_weights"])[:, 0], weight)

    golden = anchor_order(case["out_labels"])[:, 0]
    if case.param("rpn_clobber_positives"):
        return
    sampled = assign(case.param("rpn_batchsize"), case.param("rpn_fg_fraction"))
    assert sampled.positive.sum() == (golden == 1).sum()
    assert (sampled.gt_index == -1).sum() == (golden == 0).sum()
    kept = ~sampled.ignored[0]
    assert torch.equal(sampled.gt_index[0][kept], everything.gt_index[0][kept])
    # which anchors it drew hangs on NumPy's generator; those are among ours, with the same targets and weights
    drawn = golden == 1
    assert not (drawn & ~positive).any()
    expected = anchor_order(case["out_bbox_targets"])[drawn]
    torch.testing.assert_close(deltas[drawn[positive]], expected, atol=1e-4, rtol=1e-5)
    inside = anchor_order(case["out_inside_weights"])
    torch.testing.assert_close(inside, drawn[:, None] * case["param_rpn_bbox_inside_weights"].float())
    of_positive, of_background = share / sampled.positive.sum(), (1 - share) / (sampled.gt_index == -1).sum()
    if share < 0:
        of_positive = of_background = 1 / kept.sum()
    weight = torch.where(drawn, of_positive, torch.where(golden == 0, of_background, 0.0))
    torch.testing.assert_close(anchor_order(case["out_outside_weights"]), weight[:, None].expand(-1, 4))


@pytest.mark.parametrize("file", golden_cases("assigners/frcnn_proposal_target"))
def test_proposal_targets_equal_the_original(file):
    case = load_case(file)
    targets = _targets(case["in_gt_boxes5"], first_class=1)  # the original's class 0 is background
    priors = with_objects(_proposals(case["in_rois"][:, 1:]), targets)
    count = len(case["in_gt_boxes5"])
    overlaps = box_iou(priors.boxes[0], targets.boxes[0])
    golden = case["out_overlaps_all_rois"].float()  # proposals first, objects last
    torch.testing.assert_close(overlaps.roll(-count, dims=0), golden, atol=1e-5, rtol=1e-5)

    size, share = case.param("batch_size"), case.param("fg_fraction")
    assert case.param("bg_thresh_hi") == case.param("fg_thresh")
    assigner = ProposalAssigner(case.param("fg_thresh"), case.param("bg_thresh_lo"), size, round(share * size) / size)
    assignment = assigner(priors, targets)
    labels = assignment.labels(targets)[0] + 1
    expected = case["out_labels"][:, 0].long()
    assert (labels > 0).sum() == (expected > 0).sum()
    assert (labels == 0).sum() == (expected == 0).sum()

    means, stds = ([0.0] * 4, [1.0] * 4)
    if case.param("bbox_normalize_targets_precomputed"):
        means, stds = case["param_bbox_normalize_means"].tolist(), case["param_bbox_normalize_stds"].tolist()
    deltas = DeltaCoder(tuple(means), tuple(stds)).encode(priors, assignment.boxes(targets))[0]
    rows = {tuple(box): row for row, box in enumerate((case["out_rois"][:, 1:] + LAST_PIXEL).tolist())}
    shared = 0
    for prior, box in enumerate(priors.boxes[0].tolist()):  # every proposal that both drew got the same targets
        row = rows.get(tuple(box))
        if row is None or assignment.ignored[0, prior]:
            continue
        shared += 1
        assert labels[prior] == expected[row]
        slot = slice(4 * int(expected[row]), 4 * int(expected[row]) + 4)
        if expected[row] > 0:
            torch.testing.assert_close(deltas[prior], case["out_bbox_targets"][row, slot], atol=1e-4, rtol=1e-4)
            assert (case["out_inside_weights"][row, slot] == case["param_bbox_inside_weights"]).all()
            assert (case["out_outside_weights"][row, slot] == 1).all()
    assert shared > 0


def test_padding_crowd_and_empty_images():
    targets = Targets.from_list(
        [
            {
                "boxes": torch.tensor([[0.0, 0, 20, 20], [40, 40, 60, 60]]),
                "labels": torch.tensor([3, 4]),
                "iscrowd": torch.tensor([0, 1]),
            },
            {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
        ]
    )
    boxes = torch.tensor([[1.0, 1, 20, 20], [42, 42, 58, 58], [5, 5, 5, 9]]).expand(2, 3, 4)
    priors = with_objects(Priors(boxes, boxes[..., :2], torch.ones(3)), targets)
    none = [0.0] * 4
    assert priors.boxes[:, :2].tolist() == [[[0, 0, 20, 20], none], [none, none]]
    assert priors.centers[0].tolist() == [[10, 10], [0, 0], [10.5, 10.5], [50, 50], [5, 7]]
    assignment = ProposalAssigner()(priors, targets)
    assert assignment.gt_index.tolist() == [[0, -2, 0, -2, -2], [-2, -2, -1, -1, -2]]


def test_crowd_hides_anchors_though_others_are_left_out():
    priors = AnchorGenerator.square((16.0,), scale=2, offset=0.5)([(3, 4)])
    crowd = {"boxes": torch.tensor([[0.0, 0, 32, 48]]), "labels": torch.tensor([0]), "iscrowd": torch.tensor([1])}
    index = RPNAssigner()(priors, Targets.from_list([crowd])).gt_index[0]
    assert index.tolist() == [-2, -2, -2, -2, -2, -2, -1, -2, -2, -2, -2, -2]


def test_anchors_across_the_border():
    priors = AnchorGenerator.square((16.0,), scale=2, offset=0.5)([(3, 3)])
    targets = Targets.from_list([{"boxes": torch.tensor([[0.0, 0, 40, 40]]), "labels": torch.tensor([0])}])
    assert RPNAssigner()(priors, targets).gt_index[0].tolist() == [-2, -2, -2, -2, 0, -2, -2, -2, -2]
    everywhere = RPNAssigner(border=None)(priors, targets).gt_index
    assert (everywhere != -2).sum() > 1
    assert torch.equal(RPNAssigner(border=8.0)(priors, targets).gt_index, everywhere)  # as far as they cross it
    assert (RPNAssigner(border=7.9)(priors, targets).gt_index != -2).sum() == 1
    with pytest.raises(ValueError, match="set it to None"):
        RPNAssigner()(_proposals(priors.boxes), targets)


@pytest.mark.parametrize("assigner", [RPNAssigner(count=3), ProposalAssigner(count=3)])
def test_one_graph(assigner):
    priors = AnchorGenerator.square((16.0,), scale=2, offset=0.5)([(3, 3)])
    targets = Targets.from_list([{"boxes": torch.tensor([[0.0, 0, 40, 40]]), "labels": torch.tensor([0])}])
    compiled = torch.compile(lambda p, t: assigner(p, t), fullgraph=True, backend="eager")
    torch.manual_seed(1)
    actual = compiled(priors, targets).gt_index
    torch.manual_seed(1)
    assert torch.equal(actual, assigner(priors, targets).gt_index)
