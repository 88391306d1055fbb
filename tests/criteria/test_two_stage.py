"""The criteria of Faster R-CNN's stages: against the first TensorFlow port, and where images have nothing to teach."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from boxwright.assigners import (
    HardExampleSampler,
    MaxIoUAssigner,
    ProposalAssigner,
    RandomSampler,
    RPNAssigner,
    with_objects,
)
from boxwright.boxes import AnchorGenerator, DeltaCoder, aligned_iou
from boxwright.criteria import StageCriterion, TwoStageCriterion, two_stage
from boxwright.losses import (
    GIoULoss,
    SigmaSmoothL1Loss,
    SigmoidCrossEntropyLoss,
    SoftmaxCrossEntropyLoss,
    sigma_smooth_l1_loss,
    softmax_cross_entropy,
)
from boxwright.structures import Assignment, Predictions, Priors, Targets
from goldens import golden_cases, load_case

TENSORFLOW = {"rtol": 2e-5, "atol": 2e-5}


class Given:
    """An assigner that gives what it was told."""

    def __init__(self, index: Tensor) -> None:
        self.assignment = Assignment(index[None], (index >= 0).float()[None])

    def __call__(self, priors, targets, predictions):
        return self.assignment


def _stage(assigner, sigma=1.0, **options) -> StageCriterion:
    return StageCriterion(assigner, SoftmaxCrossEntropyLoss(), SigmaSmoothL1Loss(sigma), DeltaCoder(), **options)


def _proposals(*boxes: list[float]) -> Priors:
    rows = torch.tensor([boxes])
    return Priors(rows, (rows[..., :2] + rows[..., 2:]) / 2, torch.ones(len(boxes)))


def _objects(*images: list[list[float]], crowd: bool = False) -> Targets:
    rows = [torch.tensor(boxes).view(-1, 4) for boxes in images]
    return Targets.from_list(
        [{"boxes": b, "labels": torch.arange(len(b)) % 2, "iscrowd": torch.full((len(b),), crowd)} for b in rows]
    )


def _predictions(priors: Priors, classes: int, images: int = 1, *, specific: bool = False) -> Predictions:
    generator = torch.Generator().manual_seed(0)
    shapes = (classes, 4 * classes if specific else 4, 1)
    logits, params, background = (torch.randn(images, len(priors), n, generator=generator) for n in shapes)
    return Predictions(logits.requires_grad_(), (0.1 * params).requires_grad_(), {"background": background})


@pytest.mark.parametrize("file", golden_cases("losses/faster_rcnn_total"))
def test_both_stages_equal_the_original(file):
    case = load_case(file)
    names = ("rpn_cls_score", "rpn_bbox_pred", "cls_score", "bbox_pred")
    rpn_scores, rpn_boxes, scores, boxes = (case[f"in_{name}"].requires_grad_() for name in names)
    height = case["in_rpn_bbox_targets"].shape[-2]

    def anchor_order(maps: Tensor) -> Tensor:
        """(1, A · H, W, n) to (1, L, n)."""
        return maps.unflatten(1, (-1, height)).permute(0, 2, 3, 1, 4).flatten(1, 3)

    def scene(labels: Tensor, deltas: Tensor) -> tuple[Priors, Targets, Tensor]:
        """Priors and objects, one for each, that they have to be moved to by the golden deltas."""
        corner = 100 * torch.rand(len(labels), 2, dtype=torch.float64).float()
        priors = _proposals(*torch.cat([corner, corner + 20 + corner.flip(1) / 2], dim=1).tolist())
        found = DeltaCoder(max_ratio=1e6).decode(priors, deltas[None])[0]
        targets = Targets.from_list([{"boxes": found, "labels": labels.clamp(min=0)}])
        return priors, targets, torch.where(labels >= 0, torch.arange(len(labels)), labels)

    labels = anchor_order(case["in_rpn_labels"].unsqueeze(-1).squeeze(1)).flatten().long()
    deltas = case["in_rpn_bbox_targets"].unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(0, 3)
    priors, targets, index = scene(torch.where(labels == 1, 0, labels - 1), deltas)
    first = _stage(Given(index), case.param("rpn_sigma"))
    pairs = anchor_order(rpn_scores)
    predictions = Predictions(pairs[..., 1:], rpn_boxes.view(1, -1, 4), {"background": pairs[..., :1]})

    classes, labels = scores.shape[-1] - 1, case["in_roi_labels"] - 1
    own = case["in_bbox_targets"].unflatten(1, (-1, 4))[torch.arange(len(labels)), labels + 1]
    regions, region_targets, region_index = scene(labels, own)
    second = _stage(Given(region_index), case.param("rcnn_sigma"))
    criterion = TwoStageCriterion(first, second)
    losses = criterion.first(predictions, priors, targets)
    said = Predictions(scores[None, :, 1:], boxes[None, :, 4:], {"background": scores[None, :, :1]})
    losses |= criterion.second(said, regions, region_targets, second.assign(regions, region_targets))

    assert said.params.shape[-1] == 4 * classes
    expected = [case[f"out_{name}_loss"] for name in ("rpn_cls", "rpn_box", "rcnn_cls", "rcnn_box")]
    torch.testing.assert_close([*losses.values()], expected, rtol=1e-4, atol=2e-5)
    for name, leaf in zip(names, (rpn_scores, rpn_boxes, scores, boxes), strict=True):
        (gradient,) = torch.autograd.grad(sum(losses.values()), leaf, retain_graph=True)
        torch.testing.assert_close(gradient, case[f"grad_{name}"], rtol=1e-3, atol=2e-5)


def test_a_batch_is_the_mean_over_its_images():
    priors = AnchorGenerator.square((16.0,), scale=2, offset=0.5)([(4, 4)])
    stage = _stage(RPNAssigner(border=None, count=10**6))
    targets = _objects([[0, 0, 30, 30], [20, 20, 60, 60]], [[5, 5, 50, 30]], [])
    predictions = _predictions(priors, 2, 3)
    together = stage(predictions, priors, targets)
    assert stage.positives == stage.normalizer == 3
    both = TwoStageCriterion(stage, stage)
    both.first(predictions, priors, targets)
    assert both.positives == both.normalizer == 3
    assert not both.state_dict()
    alone = [stage(predictions[i : i + 1], priors, targets[i]) for i in range(3)]
    for name, loss in together.items():
        torch.testing.assert_close(loss, torch.stack([losses[name] for losses in alone]).mean())


@pytest.mark.parametrize("index", [[0, -1, -2, 1], [-2, -2, 0, -2]], ids=["three count", "one counts"])
def test_an_image_is_the_mean_over_what_counts_with_soft_targets_and_factors(index):
    proposals = _proposals([0, 0, 20, 20], [50, 50, 70, 70], [8, 0, 26, 20], [30, 30, 50, 60])
    targets, predictions = _objects([[2, 0, 20, 20], [30, 30, 54, 60]]), _predictions(proposals, 2)
    options = {"soft_target": "iou", "classification_weight": 2.0, "box_weight": 3.0}
    losses = _stage(Given(torch.tensor(index)), **options)(predictions, proposals, targets)
    count, classification, box = sum(own != -2 for own in index), 0.0, 0.0
    decoded = DeltaCoder().decode(proposals, predictions.params).detach()
    for prior, own in enumerate(index):
        label = torch.tensor(own)  # object i is of class i
        overlap = aligned_iou(decoded[0, prior], targets.boxes[0, own]) if own >= 0 else torch.tensor(0.0)
        classification += softmax_cross_entropy(predictions.columns()[0, prior], label, scores=overlap)
        if own >= 0:
            goal = DeltaCoder().encode(proposals, targets.boxes[:, [own]])[0, prior]
            box += overlap * sigma_smooth_l1_loss(predictions.params[0, prior], goal).sum()
    torch.testing.assert_close(losses["classification"], 2 * classification / count)
    torch.testing.assert_close(losses["box"], 3 * box / count)


def test_a_proposal_without_area_is_padding_whatever_the_assigner_says():
    proposals = _proposals([0, 0, 20, 20], [5, 5, 5, 25])
    found = _stage(Given(torch.tensor([0, 0]))).assign(proposals, _objects([[0, 0, 20, 20]]))
    assert found.gt_index.tolist() == [[0, -2]]
    assert found.score.tolist() == [[1, 0]]


def test_the_sample_decides_what_counts_and_its_size():
    proposals = _proposals([0, 0, 20, 20], [1, 1, 21, 21], [50, 50, 70, 70], [60, 0, 80, 20], [9, 9, 9, 30])
    targets = _objects([[0, 0, 20, 20]])
    stage = _stage(ProposalAssigner(count=4, positive_fraction=0.25))
    regions, assignment = stage.pick(with_objects(proposals, targets), targets)
    assert regions.boxes.shape == (1, 4, 4)
    assert assignment.positive.tolist() == [[True, False, False, False]]
    assert (assignment.gt_index[0] == -1).sum() == 2  # what is there, the rest is padding
    assert assignment.ignored[0, 3]
    every = _stage(MaxIoUAssigner(0.5, 0.5, low_quality="none"))
    regions, assignment = every.pick(proposals, targets)
    assert assignment.gt_index.tolist() == [[0, 0, -1, -1, -2]]
    torch.testing.assert_close(regions.boxes[:, :4], proposals.boxes[:, :4])
    thinned = _stage(MaxIoUAssigner(0.5, 0.5, low_quality="none"), sampler=RandomSampler(2, 0.5))
    assert thinned.pick(proposals, targets)[1].gt_index.tolist() == [[0, -1]]


def test_the_draw_follows_the_seed():
    proposals = _proposals(*[[float(x), 0, x + 20, 20] for x in range(40)])
    stage = _stage(ProposalAssigner(count=8))
    targets = _objects([[0, 0, 25, 20]])

    def draw(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return stage.pick(proposals, targets)[0].boxes

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_boxes_of_the_matched_class_learn_alone():
    proposals, targets = _proposals([0, 0, 20, 20], [50, 50, 70, 70]), _objects([[90, 90, 99, 99], [2, 0, 20, 20]])
    stage = _stage(ProposalAssigner())
    predictions = _predictions(proposals, 2, specific=True)
    assignment = stage.assign(proposals, targets)
    losses = stage.charge(predictions, proposals, targets, assignment)
    losses["box"].backward()
    learns = predictions.params.grad != 0
    assert learns[0].any(dim=1).tolist() == [True, False]
    assert not learns[0, 0, :4].any()  # class 0; the object is of class 1
    own = replace(predictions, params=predictions.params.detach()[..., 4:])
    torch.testing.assert_close(stage.charge(own, proposals, targets, assignment)["box"], losses["box"].detach())


@pytest.mark.parametrize("loss", [SoftmaxCrossEntropyLoss(), SigmoidCrossEntropyLoss()])
@pytest.mark.parametrize("box", [SigmaSmoothL1Loss(), GIoULoss()])
@pytest.mark.parametrize(
    "targets",
    [
        _objects([], []),
        _objects([[0, 0, 64, 64]], [], crowd=True),
        _objects([[float(i), 0, i + 20, 20] for i in range(30)], [[0, 0, 0, 0]]),
    ],
    ids=["nothing", "crowd", "more objects than proposals"],
)
def test_hostile_images_cost_a_finite_amount_with_a_gradient(loss, box, targets):
    stage = StageCriterion(ProposalAssigner(count=16), loss, box, DeltaCoder())
    empty = Priors(torch.zeros(2, 5, 4), torch.zeros(2, 5, 2), torch.ones(5))  # no proposals at all
    for proposals in (empty, with_objects(empty, targets)):
        regions, assignment = stage.pick(proposals, targets)
        predictions = _predictions(regions, 2, 2)
        if isinstance(loss, SigmoidCrossEntropyLoss):
            predictions = replace(predictions, extras={})
        losses = stage.charge(predictions, regions, targets, assignment)
        sum(losses.values()).backward()
        assert all(value.isfinite() for value in losses.values())
        assert predictions.logits.grad.isfinite().all()
        assert predictions.params.grad.isfinite().all()
        if not (~assignment.ignored).any():
            assert sum(losses.values()) == 0


def test_a_process_without_images():
    priors = AnchorGenerator.square((16.0,), scale=2, offset=0.5)([(4, 4)])
    stage = _stage(RPNAssigner(border=None))
    predictions = _predictions(priors, 2, 0)
    losses = stage(predictions, priors, Targets.from_list([]))
    assert sum(losses.values()) == 0
    sum(losses.values()).backward()
    assert predictions.logits.grad is not None


def test_micro_batches_add_up_to_one_batch():
    """What an engine that accumulates does with `normalizer` and `positives`."""
    priors = AnchorGenerator.square((16.0,), scale=2, offset=0.5)([(4, 4)])
    stage = _stage(RPNAssigner(border=None, count=10**6))
    targets = _objects([[0, 0, 30, 30]], [[5, 5, 50, 30]], [])
    predictions = _predictions(priors, 2, 3)
    whole = stage(predictions, priors, targets)["box"]
    parts = []
    for images in (slice(0, 2), slice(2, 3)):
        loss = stage(predictions[images], priors, targets[images])["box"]
        parts.append((loss * stage.normalizer, stage.positives))
    torch.testing.assert_close(sum(loss for loss, _ in parts) / sum(count for _, count in parts), whole)


def test_hard_examples_are_mined_among_the_sample():
    proposals = _proposals(*[[float(x), 0, x + 20, 20] for x in range(0, 200, 10)])
    stage = _stage(ProposalAssigner(count=16), sampler=HardExampleSampler(count=3))
    targets = _objects([[0, 0, 25, 20]])
    regions, assignment = stage.pick(proposals, targets)
    predictions = _predictions(regions, 2)
    stage.charge(predictions, regions, targets, assignment)["classification"].backward()
    learns = predictions.logits.grad.abs().sum(-1) > 0
    cost = softmax_cross_entropy(predictions.columns(), assignment.labels(targets))
    assert torch.equal(learns, cost >= cost.topk(3).values[0, -1])


def test_processes_with_unequal_shares_average_to_the_whole_batch(monkeypatch):
    """Of two processes one has two images, the other one; their gradients are averaged."""
    priors = AnchorGenerator.square((16.0,), scale=2, offset=0.5)([(4, 4)])
    stage = _stage(RPNAssigner(border=None, count=10**6))
    targets = _objects([[0, 0, 30, 30]], [[5, 5, 50, 30]], [])
    predictions = _predictions(priors, 2, 3)
    whole = stage(predictions, priors, targets)
    monkeypatch.setattr(two_stage, "world_size", lambda: 2)
    monkeypatch.setattr(two_stage, "all_reduce_sum", lambda images: torch.full_like(images, 3.0))
    shares = [stage(predictions[part], priors, targets[part]) for part in (slice(0, 2), slice(2, 3))]
    for name, loss in whole.items():
        torch.testing.assert_close(sum(share[name] for share in shares) / 2, loss)


@pytest.mark.parametrize("assigner", [RPNAssigner(border=None, count=5), ProposalAssigner(count=5), MaxIoUAssigner()])
def test_a_stage_is_one_graph(assigner):
    priors = AnchorGenerator.square((16.0,), scale=2, offset=0.5)([(4, 4)])
    stage, targets, predictions = _stage(assigner), _objects([[0, 0, 30, 30]]), _predictions(priors, 2)

    def both(predictions):
        _, assignment = stage.pick(replace(priors, boxes=priors.boxes[None], levels=()), targets)
        return *stage(predictions, priors, targets).values(), assignment.gt_index

    compiled = torch.compile(both, fullgraph=True, backend="eager")
    torch.manual_seed(1)
    actual = compiled(predictions)
    torch.manual_seed(1)
    torch.testing.assert_close(actual, both(predictions))
