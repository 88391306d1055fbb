"""One-to-one matching against DETR's and brute force."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwright.assigners import HungarianAssigner
from boxwright.assigners.linear_sum import linear_sum_assignment
from boxwright.boxes import AnchorGenerator, cxcywh_to_xyxy
from boxwright.structures import Predictions, Priors, Targets
from goldens import golden_cases, load_case


def _queries(count: int) -> Priors:
    return Priors(torch.zeros(count, 4), torch.zeros(count, 2), torch.ones(count))


@pytest.mark.parametrize("solver", ["scipy", "batched"])
@pytest.mark.parametrize("file", golden_cases("assigners/hungarian"))
def test_matches_equal_detr(file, solver):
    case = load_case(file)
    valid = torch.arange(case["in_gt_labels"].shape[1]) < case["in_gt_num"][:, None]
    targets = Targets(
        cxcywh_to_xyxy(case["in_gt_boxes_cxcywh"]), case["in_gt_labels"].clamp(min=0), valid, torch.zeros_like(valid)
    )
    boxes = cxcywh_to_xyxy(case["in_pred_boxes_cxcywh"])
    predictions = Predictions(case["in_pred_logits"], boxes, boxes=boxes)
    assigner = HungarianAssigner(
        case.param("cost_class"), case.param("cost_bbox"), case.param("cost_giou"), solver=solver
    )
    priors = _queries(boxes.shape[1])
    cost = assigner.cost(priors, targets, predictions)
    expected = case["out_cost"]
    mask = valid[:, None].expand_as(cost)
    torch.testing.assert_close(cost[mask], expected[mask], atol=1e-4, rtol=1e-5)
    assignment = assigner(priors, targets, predictions)
    for image, (query, gt) in enumerate(zip(case["out_pred_index"], case["out_gt_index"], strict=True)):
        query, gt = query[query >= 0], gt[gt >= 0]
        found = assignment.positive[image].nonzero()[:, 0]
        index = assignment.gt_index[image][found]
        total = expected[image, query, gt].sum()
        torch.testing.assert_close(expected[image, found, index].sum(), total, atol=1e-4, rtol=1e-5)
        objects = targets.boxes[image][valid[image]]
        if len(objects.unique(dim=0)) == len(objects):  # duplicates have several optima
            assert torch.equal(found, query)
            assert torch.equal(index, gt)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(0, 5), st.integers(1, 5), st.integers(0, 10_000), st.booleans())
def test_both_solvers_find_the_optimum(images, rows, columns, seed, ties):
    draw = torch.Generator().manual_seed(seed)
    cost = torch.randn(images, rows, columns, generator=draw, dtype=torch.float64)
    if ties:
        cost = cost.round()
    valid = torch.rand(images, rows, generator=draw) < 0.8
    for solver in ("scipy", "batched"):
        found = linear_sum_assignment(cost, valid, solver)
        for image in range(images):
            members = valid[image].nonzero()[:, 0].tolist()
            pairs = [(row, column) for row, column in enumerate(found[image].tolist()) if column >= 0]
            assert {row for row, _ in pairs} <= set(members)
            assert len({column for _, column in pairs}) == len(pairs) == min(len(members), columns)
            chosen = itertools.permutations(members, min(len(members), columns))
            options = itertools.product(chosen, itertools.combinations(range(columns), min(len(members), columns)))
            best = min(sum(cost[image, r, c].item() for r, c in zip(rs, cs, strict=True)) for rs, cs in options)
            assert sum(cost[image, r, c].item() for r, c in pairs) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("solver", ["scipy", "batched"])
def test_padding_crowd_and_empty_images(solver):
    priors = AnchorGenerator.square((16.0,), scale=1, offset=0.5)([(2, 2)])
    boxes = priors.boxes.expand(3, 4, 4)
    predictions = Predictions(torch.zeros(3, 4, 3), boxes, boxes=boxes)
    targets = Targets.from_list(
        [
            {"boxes": priors.boxes[[2, 0]] + 1, "labels": torch.tensor([0, 1]), "iscrowd": torch.tensor([1, 0])},
            {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
            {"boxes": priors.boxes[[3, 3, 0, 1, 2, 2]], "labels": torch.zeros(6, dtype=torch.int64)},
        ]
    )
    for form in ("softmax", "focal"):
        gt_index = HungarianAssigner(class_form=form, solver=solver)(priors, targets, predictions).gt_index
        assert gt_index[0].tolist() == [1, -1, -2, -1]
        assert gt_index[1].tolist() == [-1, -1, -1, -1]
        assert gt_index[2, :2].tolist() == [2, 3]
        assert gt_index[2, 2] in (4, 5)
        assert gt_index[2, 3] in (0, 1)


@pytest.mark.parametrize("solver", ["scipy", "batched"])
def test_covered_priors_are_matched_last_and_with_nobody(solver):
    """Object 1 fits prior 0 best, which lies in a region to ignore; where there are too few others, one has none."""
    priors = AnchorGenerator.square((16.0,), scale=1, offset=0.5)([(1, 3)])
    predictions = Predictions(torch.zeros(1, 3, 1), priors.boxes[None], boxes=priors.boxes[None])
    region = torch.tensor([[-9.0, -9.0, 16.0, 16.0]])
    for objects, expected in (([0], [-2, 1, -1]), ([0, 1], [-2, 2, 1]), ([0, 1, 2], [-2, 2, 3])):
        boxes = torch.cat([region, priors.boxes[objects]])
        crowd = torch.arange(len(boxes)) == 0
        target = {"boxes": boxes, "labels": torch.zeros(len(boxes), dtype=torch.int64), "iscrowd": crowd}
        targets = Targets.from_list([target])
        assignment = HungarianAssigner(solver=solver)(priors, targets, predictions)
        assert assignment.gt_index.tolist() == [expected]
        never = HungarianAssigner(solver=solver, ignore_threshold=None)(priors, targets, predictions)
        assert not never.ignored.any()
        assert never.gt_index[0, 0] == 1


def test_hostile_predictions_still_match():
    boxes = torch.tensor([[[0.0, 0, 1e30, 1e30], [torch.nan] * 4, [5, 5, 5, 5]]])
    predictions = Predictions(torch.full((1, 3, 2), 1e4), boxes, boxes=boxes)
    targets = Targets.from_list([{"boxes": torch.tensor([[4.0, 4, 6, 6]]), "labels": torch.tensor([0])}])
    for solver in ("scipy", "batched"):
        assignment = HungarianAssigner(solver=solver)(_queries(3), targets, predictions)
        assert assignment.gt_index.tolist() == [[-1, -1, 0]]
    with pytest.raises(ValueError, match="decoded"):
        HungarianAssigner()(_queries(3), targets)


@pytest.mark.parametrize("solver", ["scipy", "batched"])
def test_a_compiler_and_torch_func_see_one_operator(solver):
    draw = torch.Generator().manual_seed(0)
    boxes = torch.rand(2, 6, 4, generator=draw).sort(dim=2).values
    logits = torch.randn(2, 6, 3, generator=draw)
    objects = [{"boxes": boxes[0, :count], "labels": torch.arange(count)} for count in (3, 0)]
    targets, priors, assigner = Targets.from_list(objects), _queries(6), HungarianAssigner(solver=solver)

    def matched(logits):
        answer = assigner(priors, targets, Predictions(logits, boxes, boxes=boxes))
        return answer.positive, (logits.sigmoid().sum(2) * answer.positive).sum()

    expected, _ = matched(logits)
    assert expected.sum() == 3
    assert torch.equal(torch.compile(matched, fullgraph=True, backend="aot_eager")(logits)[0], expected)
    gradient = torch.func.grad(lambda logits: matched(logits)[1])(logits)
    assert torch.equal(gradient.any(2), expected)


def test_the_focal_cost_is_what_the_label_adds_to_the_focal_loss():
    logits, labels = torch.randn(2, 3, 4), torch.randint(0, 4, (2, 5))
    boxes = torch.rand(2, 3, 4).cumsum(-1)
    targets = Targets(torch.rand(2, 5, 4).cumsum(-1), labels, labels >= 0, labels < 0)
    assigner = HungarianAssigner(1.0, 0.0, 0.0, class_form="focal")
    cost = assigner.cost(_queries(3), targets, Predictions(logits, boxes, boxes=boxes))
    for image, query, place in itertools.product(range(2), range(3), range(5)):
        p = logits[image, query, labels[image, place]].double().sigmoid()
        expected = -0.25 * (1 - p) ** 2 * p.log() + 0.75 * p**2 * (1 - p).log()
        assert cost[image, query, place] == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
