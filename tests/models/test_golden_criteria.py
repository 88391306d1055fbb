"""Real heads and the criteria that recipes build, end to end against the losses of GFLv2 and TOOD.

The golden cases give what a head answered: a head whose weights hand its input on is fed what leads to that answer, so
that its own arithmetic, the coder and the criterion lie between the input and the golden losses and gradients.
"""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from boxwright.boxes import AnchorGenerator, cxcywh_to_xyxy
from boxwright.models.heads import GFLHead, TOODHead
from boxwright.recipes import build_criterion, load_recipe
from boxwright.structures import Assignment, Predictions, Priors, Targets
from goldens import golden_cases, load_case

QUALITY = 6.0  # logit of the constant second factor of the scores


@dataclass
class GivenAssignment:
    """The golden case's own assignment: object i is what prior i learns."""

    labels: Tensor
    ignored: Tensor
    boxes: Tensor
    scores: Tensor

    def targets(self) -> Targets:
        real = torch.ones(1, len(self.labels), dtype=torch.bool)
        return Targets(self.boxes[None].float(), self.labels.clamp(min=0)[None], real, ~real)

    def __call__(self, priors: Priors, targets: Targets, predictions: Predictions | None) -> Assignment:
        index = torch.where(self.labels >= 0, torch.arange(len(self.labels)), -1)
        index = torch.where(self.ignored, -2, index)
        return Assignment(index[None], self.scores[None].float())


def _close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual.double(), expected.reshape(actual.shape).double(), atol=1e-4, rtol=1e-4)


def _foreground(labels: Tensor, classes: int) -> Tensor:
    return torch.where(labels < classes, labels, -1)


@torch.no_grad()
def _pass_on(conv: nn.Conv2d, first: int) -> None:
    """Make a convolution copy the channels of its input from `first` on."""
    assert conv.bias is not None
    conv.weight.zero_()
    conv.bias.zero_()
    middle = conv.kernel_size[0] // 2
    for channel in range(conv.out_channels):
        conv.weight[channel, first + channel, middle, middle] = 1


@torch.no_grad()
def _constant(conv: nn.Conv2d, value: float) -> None:
    assert conv.bias is not None
    conv.weight.zero_()
    conv.bias.fill_(value)


def _factor(score: Tensor, power: float = 1.0) -> Tensor:
    """Logit that the head multiplies with σ(QUALITY) to give the score, each to a power."""
    return (score ** (1 / power) / torch.tensor(QUALITY).sigmoid()).logit()


@pytest.mark.parametrize("quality", [False, True], ids=["gfl", "gflv2"])
@pytest.mark.parametrize("file", golden_cases("losses/gflv2_head_loss"))
def test_gfl_head_and_criterion(file, quality):
    case = load_case(file)
    golden, distributions = case["in_cls_score"], case["in_bbox_pred"].float().requires_grad_()
    classes, reg_max, stride = golden.shape[1], case.param("reg_max"), float(case.param("stride"))
    scores = golden.clone().requires_grad_()
    inputs = torch.cat([_factor(scores).float() if quality else scores.logit().float(), distributions], dim=1)
    head = GFLHead([inputs.shape[1]], classes, convs=0, reg_max=reg_max, quality=quality)
    _pass_on(head.class_logits, 0)
    _pass_on(head.distribution, classes)
    if head.quality is not None:
        _constant(head.quality.layers[-1], QUALITY)
    predictions = head([inputs])
    _close(predictions.logits.sigmoid(), golden.flatten(2).mT)

    size = tuple(golden.shape[-2:])
    priors = AnchorGenerator.square((stride,), scale=8, offset=0.5)([size])
    _close(priors.boxes, case["in_anchors"])
    labels = _foreground(case["in_labels"], classes)
    # a row of weight 0 costs nothing: it is ignored
    given = GivenAssignment(labels, case["in_label_weights"] == 0, case["in_bbox_targets"], torch.zeros(len(labels)))
    recipe = load_recipe("gfl", [f"detector.head.reg_max={reg_max}", f"detector.coder.reg_max={reg_max}"])
    criterion = build_criterion(recipe)
    criterion.assigner = given
    losses = criterion(predictions, priors, given.targets())
    share = case["out_weight_sum"].clamp(min=1)
    _close(losses["classification"], case["out_loss_cls"])
    _close(losses["box"] * share, case["out_loss_bbox_unnormalised"])
    _close(losses["distribution"] * share, case["out_loss_dfl_unnormalised"])
    total = sum(losses.values())
    _close(total, case["out_total"])
    total.backward()
    _close(scores.grad, case["grad_cls_score_of_total"])
    _close(distributions.grad, case["grad_bbox_pred_of_total"])


class _Weighted(nn.Module):
    """A classification loss with a weight per prior: in the golden case a positive may cost its box alone."""

    def __init__(self, loss: nn.Module, weight: Tensor) -> None:
        super().__init__()
        self.loss, self.weight = loss, weight

    def forward(self, *inputs: Tensor, **options: Tensor) -> Tensor:
        loss: Tensor = self.loss(*inputs, weight=self.weight, **options)
        return loss


class _First(nn.Module):
    """Task features that are the stack's input."""

    def forward(self, layers: Tensor, pooled: Tensor) -> Tensor:
        return layers


def _tood_head(classes: int, levels: int) -> TOODHead:
    """Build the anchor-based head around a stack that hands its input on: class logits, then box deltas."""
    head = TOODHead([classes + 4] * levels, classes, convs=1, channels=classes + 4, anchor_scale=8, offset=0.5)
    head.stack = nn.ModuleList([nn.Identity()])
    head.class_features, head.box_features = _First(), _First()
    _pass_on(head.class_logits, 0)
    _pass_on(head.box_params, classes)
    _constant(head.probability[-1], QUALITY)
    _constant(head.offsets[-1], 0.0)
    return head


def _deltas(boxes: Tensor, centers: Tensor) -> Tensor:
    """What the head decodes into boxes (1, 4, h, w) in strides around the centres (1, 2, h, w) of squares of 8."""
    low, high = boxes.chunk(2, dim=1)
    return torch.cat([((low + high) / 2 - centers) / 8 / 0.1, ((high - low) / 8).log() / 0.2], dim=1)


@pytest.mark.parametrize("file", golden_cases("losses/tood_head_loss"))
def test_tood_head_and_criterion(file):
    case = load_case(file)
    classes, levels = case.param("num_classes"), range(case.param("num_levels"))
    strides = [float(case.param(f"stride_l{level}")) for level in levels]
    scores = [case[f"in_cls_score_l{level}"].requires_grad_() for level in levels]
    boxes = [case[f"in_bbox_pred_l{level}"].requires_grad_() for level in levels]
    generator = AnchorGenerator.square(strides, scale=8, offset=0.5)
    priors = generator([tuple(score.shape[-2:]) for score in scores])
    _close(priors.boxes, torch.cat([case[f"in_anchors_l{level}"] for level in levels]))

    inputs, start = [], 0
    for level, (score, box) in enumerate(zip(scores, boxes, strict=True)):
        size = priors.levels[level].size
        centers = (priors.centers[start : start + size] / strides[level]).T.reshape(1, 2, *box.shape[-2:])
        inputs.append(torch.cat([_factor(score, power=0.5), _deltas(box, centers)], dim=1).float())
        start += size
    predictions = _tood_head(classes, len(levels))(inputs)
    _close(predictions.logits.sigmoid(), torch.cat([score.flatten(2) for score in scores], dim=2).mT)

    labels = _foreground(torch.cat([case[f"in_labels_l{level}"] for level in levels]), classes)
    weights = torch.cat([case[f"in_label_weights_l{level}"] for level in levels])
    metrics = torch.cat([case[f"in_alignment_metrics_l{level}"] for level in levels])
    initial = bool(case.param("initial_stage"))
    goals = torch.cat([case[f"in_bbox_targets_l{level}"] for level in levels])
    criterion = build_criterion(load_recipe("tood"))
    criterion.set_epoch(0 if initial else 4)
    given = GivenAssignment(labels, torch.zeros_like(weights) > 0, goals, torch.where(labels >= 0, metrics, 0))
    criterion.current.assigner = given
    if initial:  # the aligned stage does not look at them
        criterion.first.classification = _Weighted(criterion.first.classification, weights.float()[None])
    decoded = criterion.coder.decode(priors, predictions.params) / priors.strides[:, None]
    _close(decoded, torch.cat([box.flatten(2) for box in boxes], dim=2).mT)
    losses = criterion(predictions, priors, given.targets())
    _close(losses["classification"], case["out_loss_cls"])
    _close(losses["box"], case["out_loss_bbox"])
    _close(criterion.positives, case["out_cls_avg_factor"])
    sum(losses.values()).backward()
    for level in levels:
        _close(scores[level].grad, case[f"grad_cls_score_l{level}"])
        _close(boxes[level].grad, case[f"grad_bbox_pred_l{level}"])


@pytest.mark.parametrize("file", golden_cases("losses/ssd_multibox"))
def test_the_criterion_of_ssd(file):
    """Assigner, hard negatives, coder and losses of the recipe against ssd.pytorch's MultiBoxLoss."""
    case = load_case(file)
    threshold, ratio = case.param("overlap_thresh"), case.param("negpos_ratio")
    recipe = load_recipe("ssd", [f"criterion.assigner.positive_iou={threshold}", f"criterion.sampler.ratio={ratio}"])
    priors, targets = _ssd_scene(case)
    deltas, conf = case["in_loc"].float().requires_grad_(), case["in_conf"].float().requires_grad_()
    predictions = Predictions(conf[..., 1:], deltas, {"background": conf[..., :1]})
    criterion = build_criterion(recipe)
    labels = criterion.assigner(priors, targets).labels(targets) + 1
    if not torch.equal(labels, case["out_conf_targets"]):
        # two objects want one prior: ours gives the better overlap its way and the other the next best
        assert "case_01" in file.name
        targets = _as_matched(case, criterion, priors)
        criterion.assigner = lambda *_: Assignment(_matched(case), (case["out_conf_targets"] > 0).float())
    losses = criterion(predictions, priors, targets)
    _close(losses["box"], case["out_loss_l"])
    _close(losses["classification"], case["out_loss_c"])
    sum(losses.values()).backward()
    _close(deltas.grad, case["grad_loc"])
    _close(conf.grad, case["grad_conf"])


def _ssd_scene(case):
    """Priors and objects of a golden case, whose image has the side 1, in pixels of one of 300."""
    boxes = 300 * cxcywh_to_xyxy(case["in_priors"]).float()
    priors = Priors(boxes, 300 * case["in_priors"][:, :2].float(), torch.ones(len(boxes)))
    objects = [case[name] for name in sorted(case) if name.startswith("in_targets")]
    return priors, Targets.from_list([{"boxes": 300 * o[:, :4].float(), "labels": o[:, 4].long()} for o in objects])


def _matched(case):
    labels = case["out_conf_targets"]
    return torch.where(labels > 0, torch.arange(labels.shape[1]), -1)


def _as_matched(case, criterion, priors):
    """One object per prior: the original's match, out of its encoded target."""
    boxes, labels = criterion.coder.decode(priors, case["out_loc_targets"]), case["out_conf_targets"]
    return Targets(boxes, (labels - 1).clamp(min=0), labels > 0, torch.zeros_like(labels > 0))
