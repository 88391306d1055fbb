"""TaskAlignedAssigner against the golden cases of TOOD, PaddleDetection and ultralytics."""

import pytest
import torch

from boxwright.assigners import ATSSAssigner, DualAssigner, TaskAlignedAssigner
from boxwright.structures import Assignment, Level, Predictions, Priors, Targets
from goldens import Case, golden_cases, load_case, positive_boxes

FILES = pytest.mark.parametrize("file", golden_cases("assigners/tal"))


def scene(case: Case) -> tuple[Priors, Targets, Predictions]:
    levels, strides = [], []
    for (height, width), stride in zip(case["in_feat_hw"].tolist(), case["in_strides"].tolist(), strict=True):
        levels.append(Level(height, width, int(case["in_anchors_per_loc"]), stride))
        strides.append(torch.full((levels[-1].size,), float(stride)))
    priors = Priors(case["in_anchors"], case["in_anchor_points"], torch.cat(strides), tuple(levels))
    boxes = case["in_gt_boxes"]
    valid = torch.arange(boxes.shape[1]) < case["in_gt_num"][:, None]
    targets = Targets(boxes, case["in_gt_labels"], valid, torch.zeros_like(valid))
    return priors, targets, Predictions(case["in_pred_scores"].logit(), torch.empty(0), boxes=case["in_pred_boxes"])


def assign(case: Case, assigner: TaskAlignedAssigner) -> tuple[Assignment, Targets]:
    priors, targets, predictions = scene(case)
    return assigner(priors, targets, predictions), targets


def one_hot(assignment: Assignment, targets: Targets, classes: int) -> torch.Tensor:
    """Scores at the class of the object, (B, L, C)."""
    column = torch.nn.functional.one_hot(assignment.labels(targets).clamp(min=0), classes)
    return column * assignment.score.unsqueeze(-1)


@FILES
@pytest.mark.parametrize(("form", "alpha"), [("tood", 1.0), ("tood_a05", 0.5)])
def test_tood(file, form, alpha):
    case = load_case(file)
    assignment, targets = assign(case, TaskAlignedAssigner(case.param("topk"), alpha))
    assert torch.equal(assignment.gt_index, case[f"out_{form}_gt_inds"] - 1)
    assert torch.equal(assignment.labels(targets), case[f"out_{form}_labels"])

    aligned, _, overlap = TaskAlignedAssigner(alpha=alpha).alignment(*scene(case))  # (B, G, L)
    own, positive = assignment.gt_index.clamp(min=0).unsqueeze(1), assignment.positive
    for pairs, golden in ((aligned, "assign_metrics"), (overlap, "max_overlaps")):  # at background 0 and -1e8
        chosen = pairs.gather(1, own).squeeze(1)[positive]
        torch.testing.assert_close(chosen, case[f"out_{form}_{golden}"][positive], atol=1e-5, rtol=0)
    assert (case[f"out_{form}_assign_metrics"][~positive] == 0).all()


@FILES
def test_tood_targets_of_the_first_epochs(file):
    """They are those of ATSS with nine priors per level; weights tell positives from background, and nothing more."""
    case = load_case(file)
    priors, targets, _ = scene(case)
    assignment = ATSSAssigner(9)(priors, targets)
    positive = assignment.positive
    labels = torch.where(positive, assignment.labels(targets), case.param("num_classes"))
    assert torch.equal(labels, case["out_tood_initial_labels_bgC"])
    assert torch.equal(positive_boxes(assignment, targets), case["out_tood_initial_bbox_targets"])
    assert torch.equal(assignment.score, case["out_tood_initial_norm_metrics"])
    assert torch.equal(assignment.score[..., None].expand(-1, -1, 4), case["out_tood_initial_bbox_weights"])
    assert torch.equal((~assignment.ignored).float(), case["out_tood_initial_label_weights"])
    assert positive.sum(1).clamp(min=1).sum() == case["out_tood_initial_num_total_pos"]


@FILES
def test_tood_targets(file):
    case = load_case(file)
    assignment, targets = assign(case, TaskAlignedAssigner(case.param("topk")))
    torch.testing.assert_close(assignment.score, case["out_tood_aligned_norm_metrics"], atol=1e-5, rtol=0)
    assert torch.equal(positive_boxes(assignment, targets), case["out_tood_aligned_bbox_targets"])
    labels = torch.where(assignment.positive, assignment.labels(targets), case.param("num_classes"))
    assert torch.equal(labels, case["out_tood_aligned_labels_bgC"])
    assert torch.equal((~assignment.ignored).float(), case["out_tood_aligned_label_weights"])
    weights = assignment.positive[..., None].float().expand(-1, -1, 4)
    assert torch.equal(weights, case["out_tood_aligned_bbox_weights"])
    assert assignment.positive.sum(1).clamp(min=1).sum() == case["out_tood_aligned_num_total_pos"]


@FILES
@pytest.mark.parametrize(("form", "alpha"), [("paddle", 1.0), ("paddle_a05", 0.5)])
def test_paddle(file, form, alpha):
    case = load_case(file)
    assignment, targets = assign(case, TaskAlignedAssigner.paddle(case.param("topk"), alpha))
    rows = ~case["in_paddle_ambiguous_gt"].any(1)
    labels = torch.where(assignment.positive, assignment.labels(targets), case.param("num_classes"))
    assert torch.equal(labels[rows], case[f"out_{form}_labels"][rows])
    index = case[f"out_{form}_flat_gt_index"] - torch.arange(len(labels))[:, None] * targets.labels.shape[1]
    assert torch.equal((assignment.gt_index.clamp(min=0))[rows], (index * assignment.positive)[rows])
    score = one_hot(assignment, targets, case.param("num_classes"))
    torch.testing.assert_close(score[rows], case[f"out_{form}_scores"][rows], atol=1e-5, rtol=0)
    boxes, positive = assignment.boxes(targets), assignment.positive & rows[:, None]
    assert torch.equal(boxes[positive], case[f"out_{form}_boxes"][positive])  # at background theirs is object 0


@FILES
@pytest.mark.parametrize(("form", "flag"), [("t10", "t10"), ("tk", "tk"), ("t10_7", "t10")])
def test_ultralytics(file, form, flag):
    case = load_case(file)
    assigner = TaskAlignedAssigner.ultralytics(
        topk=case.param("topk") if form == "tk" else 10,
        alpha=1.0 if form == "tk" else 0.5,
        final_topk=7 if form == "t10_7" else None,
    )
    assignment, targets = assign(case, assigner)
    rows = ~case[f"in_ultra_{flag}_ambiguous_gt"].any(1)
    positive = case[f"out_ultra_{form}_fg_mask"]
    assert torch.equal(assignment.positive[rows], positive[rows])
    index = torch.where(positive, case[f"out_ultra_{form}_gt_index"], -1)
    assert torch.equal(assignment.gt_index[rows], index[rows])
    score = one_hot(assignment, targets, case.param("num_classes"))
    torch.testing.assert_close(score[rows], case[f"out_ultra_{form}_scores"][rows], atol=1e-5, rtol=0)
    positive = positive & rows[:, None]  # at background theirs are those of object 0
    assert torch.equal(assignment.labels(targets)[positive], case[f"out_ultra_{form}_labels"][positive])
    assert torch.equal(assignment.boxes(targets)[positive], case[f"out_ultra_{form}_boxes"][positive])


@FILES
def test_paddle_beside_ambiguous_objects(file):
    """An object whose own choice hangs on no tie gets the same priors, also in images where others' choices do."""
    case = load_case(file)
    assignment, targets = assign(case, TaskAlignedAssigner.paddle(case.param("topk"), 1.0))
    objects = targets.labels.shape[1]
    theirs = case["out_paddle_flat_gt_index"] - torch.arange(len(targets))[:, None] * objects
    clear = targets.objects & ~case["in_paddle_ambiguous_gt"]
    taken = case["out_paddle_scores"].amax(-1) > 0  # choices of metric 0 are what libraries disagree on
    for index, used in ((assignment.gt_index.clamp(min=0), assignment.positive), (theirs, taken)):
        rows = used & clear.gather(1, index)
        assert torch.equal(assignment.gt_index[rows], theirs[rows])
        torch.testing.assert_close(assignment.score[rows], case["out_paddle_scores"].amax(-1)[rows], atol=1e-5, rtol=0)


@FILES
def test_ultralytics_beside_ambiguous_objects(file):
    """As above for the form with CIoU."""
    case = load_case(file)
    assignment, targets = assign(case, TaskAlignedAssigner.ultralytics())
    clear = targets.objects & ~case["in_ultra_t10_ambiguous_gt"]
    theirs, score = case["out_ultra_t10_gt_index"], case["out_ultra_t10_scores"].amax(-1)
    for index, used in ((assignment.gt_index.clamp(min=0), assignment.positive), (theirs, score > 0)):
        rows = used & clear.gather(1, index)
        assert torch.equal(assignment.gt_index[rows], theirs[rows])
        torch.testing.assert_close(assignment.score[rows], score[rows], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("third", "owners"), [([0, 0, 20, 19], (0, 2, 2)), ([2, 2, 20, 20], (0, 0, 2))])
def test_a_prior_that_two_objects_choose(third, owners):
    """The third object chooses another one. It overlaps the first prior most, whose centre it holds or does not."""
    boxes = torch.tensor([[0, 0, 20, 14], [0, 0, 20, 12], third]).float()
    priors = Priors(torch.zeros(2, 4), torch.tensor([[1.0, 1], [10, 10]]), torch.ones(2))
    logits = torch.tensor([[[4.0, -4], [-4, 4]]])  # each prior is sure of its class
    predictions = Predictions(logits, torch.empty(0), boxes=torch.tensor([[[0.0, 0, 20, 20], [0, 1, 20, 20]]]))
    targets = Targets.from_list([{"boxes": boxes, "labels": torch.tensor([0, 0, 1])}])
    for conflicts, owner in zip(("selected", "inside", "all"), owners, strict=True):
        for inside in ("before", "after"):
            assigner = TaskAlignedAssigner(topk=1, inside=inside, conflicts=conflicts)
            assert assigner(priors, targets, predictions).gt_index[0, 0] == owner
    before, after = (
        TaskAlignedAssigner(inside=inside).alignment(priors, targets, predictions)[0][0, 2, 0]
        for inside in ("before", "after")
    )
    assert after > 0
    assert before == after * (owners[1] == 2)  # whether it holds the centre


@pytest.mark.parametrize("conflicts", ["selected", "inside", "all"])
def test_the_best_prior_is_dropped_outside_or_passed_over(conflicts):
    box = torch.tensor([[2.0, 2, 20, 20]])
    priors = Priors(torch.zeros(2, 4), torch.tensor([[1.0, 1], [10, 10]]), torch.ones(2))
    predicted = torch.tensor([[[2.0, 2, 20, 20], [2, 2, 20, 15]]])
    predictions = Predictions(torch.zeros(1, 2, 1), torch.empty(0), boxes=predicted)
    targets = Targets.from_list([{"boxes": box, "labels": torch.tensor([0])}])
    for inside, index in (("after", [-1, -1]), ("before", [-1, 0])):
        assigner = TaskAlignedAssigner(topk=1, inside=inside, conflicts=conflicts)
        assert assigner(priors, targets, predictions).gt_index[0].tolist() == index


@pytest.mark.parametrize("exponent", [0.0, 0.5, 0.7, 1.0, 2.5, 5.0, 20.0])
def test_alignment_is_a_product_of_powers(exponent):
    priors, targets, predictions, _ = two_heads()
    predictions.boxes[0, 0] += 100  # overlaps nothing
    predictions.logits[0, 1] = -1e4  # has no chance
    beta = exponent or 1.0
    aligned, score, overlap = TaskAlignedAssigner(alpha=exponent, beta=beta).alignment(priors, targets, predictions)
    expected = score.double() ** exponent * overlap.double() ** beta
    torch.testing.assert_close(aligned.double(), expected, rtol=2e-5, atol=1e-36)
    assert aligned[0, 0, 0] == overlap[0, 0, 0] == 0


def test_objects_are_not_enlarged_to_the_stride_of_no_level():
    with pytest.raises(ValueError, match="small_level=1 is the stride of a level, but the priors have no levels"):
        TaskAlignedAssigner.ultralytics()(*two_heads()[:3])


def test_a_second_head_is_assigned_by_its_own_predictions():
    assigner, (priors, targets, first, second) = DualAssigner(topk=3), two_heads()
    both = assigner(priors, targets, first, second)
    for found, topk, predictions in zip(both, (3, 1), (first, second), strict=True):
        expected = assigner.branch(topk)(priors, targets, predictions)
        assert torch.equal(found.gt_index, expected.gt_index)
        torch.testing.assert_close(found.score, expected.score)
    assert not torch.equal(both[1].gt_index, assigner(priors, targets, first)[1].gt_index)


def test_a_centre_hardly_inside_is_inside_for_two_heads():
    boxes = torch.tensor([[0.0, 0, 8, 8]])
    priors = Priors(boxes, torch.tensor([[0.005, 4]]), torch.ones(1))
    targets = Targets.from_list([{"boxes": boxes, "labels": torch.tensor([0])}])
    predictions = Predictions(torch.zeros(1, 1, 1), torch.zeros(1, 1, 4), boxes=boxes[None])
    assert all(assignment.positive.all() for assignment in DualAssigner()(priors, targets, predictions))


def two_heads() -> tuple[Priors, Targets, Predictions, Predictions]:
    """Two heads that predict 30 priors in an image of one object, which holds all centres."""
    centers = 10 + 20 * torch.rand(30, 2)
    boxes = torch.cat([centers - 4, centers + 4], 1)
    targets = Targets.from_list([{"boxes": torch.tensor([[0.0, 0, 40, 40]]), "labels": torch.tensor([1])}])
    predicted = boxes + 3 * torch.randn(2, 1, 30, 4)
    heads = [Predictions(torch.randn(1, 30, 3), torch.zeros(1, 30, 4), boxes=own) for own in predicted]
    return Priors(boxes, centers, torch.ones(30)), targets, *heads
