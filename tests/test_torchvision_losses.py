"""Our losses in place of those of torchvision's detectors: the same numbers and the same gradients."""

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder, BoxLinearCoder
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.models.detection.ssd import SSD

from boxwright.losses import giou_loss, sigmoid_cross_entropy, sigmoid_focal_loss, smooth_l1_loss, softmax_cross_entropy
from boxwright.losses.systems import multibox_loss

IMAGES, PRIORS, CLASSES = 3, 40, 5
Target = dict[str, Tensor]
Losses = Callable[..., dict[str, Tensor]]


def random_boxes(*shape: int) -> Tensor:
    corner = torch.rand(*shape, 2) * 60
    return torch.cat([corner, corner + 4 + torch.rand(*shape, 2) * 30], dim=-1)


def scene(first_class: int) -> tuple[list[Target], list[Tensor], list[Tensor]]:
    """Targets, anchors and matches of three images, of which the second has no object."""
    targets, matches = [], []
    for count in (3, 0, 2):
        labels = torch.randint(first_class, CLASSES, (count,))
        targets.append({"boxes": random_boxes(count), "labels": labels})
        number = torch.arange(PRIORS) % 20  # few positives, so that SSD finds three times as much background
        matches.append(number.where(number < count, -1))
    return targets, list(random_boxes(IMAGES, PRIORS)), matches


def of_matches(
    targets: list[dict[str, Tensor]], matches: list[Tensor], otherwise: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Labels (B, L), -1 where nothing is matched, and boxes (B, L, 4) of the matched objects."""
    labels = [torch.cat([t["labels"], torch.tensor([-1])])[m] for t, m in zip(targets, matches, strict=True)]
    boxes = [
        torch.where((m >= 0)[:, None], torch.cat([t["boxes"], torch.zeros(1, 4)])[m], other)
        for t, m, other in zip(targets, matches, otherwise, strict=True)
    ]
    return torch.stack(labels), torch.stack(boxes)


def assert_same(theirs: Losses, ours: Losses, *outputs: Tensor) -> None:
    results = []
    for function in (theirs, ours):
        leaves = [output.clone().requires_grad_() for output in outputs]
        losses = function(*leaves)
        sum(losses.values()).backward()
        results.append((losses, [leaf.grad for leaf in leaves]))
    torch.testing.assert_close(results[1], results[0])
    assert all(gradient.any() for gradient in results[0][1])


def test_fcos() -> None:
    targets, anchors, matches = scene(0)
    for target, boxes, match in zip(targets, anchors, matches, strict=True):  # centres lie in their objects
        boxes[match >= 0] = target["boxes"][match[match >= 0]] + torch.rand(int((match >= 0).sum()), 4) * 4 - 2
    coder = BoxLinearCoder(normalize_by_size=True)

    def theirs(logits: Tensor, sides: Tensor, centerness: Tensor) -> dict[str, Tensor]:
        outputs = {"cls_logits": logits, "bbox_regression": sides, "bbox_ctrness": centerness}
        return FCOSHead.compute_loss(SimpleNamespace(box_coder=coder), targets, outputs, anchors, matches)

    def ours(logits: Tensor, sides: Tensor, centerness: Tensor) -> dict[str, Tensor]:
        labels, boxes = of_matches(targets, matches, anchors)
        priors, positive = torch.stack(anchors), labels >= 0
        predicted, goal = coder.decode(sides, priors), coder.encode(priors, boxes)
        near, far = (f(goal[..., :2], goal[..., 2:]) for f in (torch.minimum, torch.maximum))
        share = (near / far).prod(-1, keepdim=True).sqrt().nan_to_num().clamp(0, 1)  # meaningless where unmatched
        mean = {"reduction": "mean", "normalizer": positive.sum()}
        return {
            "classification": sigmoid_focal_loss(logits, labels, **mean),
            "bbox_regression": giou_loss(predicted, boxes, version="torchvision", weight=positive, **mean),
            "bbox_ctrness": sigmoid_cross_entropy(centerness, share, weight=positive, **mean),
        }

    shape = (IMAGES, PRIORS)
    assert_same(theirs, ours, torch.randn(*shape, CLASSES), torch.rand(*shape, 4), torch.randn(*shape, 1))


def test_ssd() -> None:
    targets, anchors, matches = scene(1)  # 0 is background
    coder = BoxCoder((10.0, 10.0, 5.0, 5.0))

    def theirs(logits: Tensor, deltas: Tensor) -> dict[str, Tensor]:
        outputs = {"cls_logits": logits, "bbox_regression": deltas}
        return SSD.compute_loss(
            SimpleNamespace(box_coder=coder, neg_to_pos_ratio=3), targets, outputs, anchors, matches
        )

    def ours(logits: Tensor, deltas: Tensor) -> dict[str, Tensor]:
        labels, boxes = of_matches(targets, matches, anchors)
        goal = torch.stack([coder.encode_single(*pair) for pair in zip(boxes, anchors, strict=True)])
        terms = multibox_loss(deltas, logits, goal, labels.clamp(min=0))
        return {"bbox_regression": terms["box"], "classification": terms["class"]}

    assert_same(theirs, ours, torch.randn(IMAGES, PRIORS, CLASSES), torch.randn(IMAGES, PRIORS, 4))


def test_the_regions_of_faster_rcnn() -> None:
    labels, goal = torch.randint(0, CLASSES, (2, PRIORS)), torch.randn(2, PRIORS, 4)  # 0 is background

    def theirs(logits: Tensor, deltas: Tensor) -> dict[str, Tensor]:
        return dict(zip("ab", fastrcnn_loss(logits, deltas, list(labels), list(goal)), strict=True))

    def ours(logits: Tensor, deltas: Tensor) -> dict[str, Tensor]:
        flat = labels.flatten()
        chosen = deltas.view(len(flat), CLASSES, 4)[torch.arange(len(flat)), flat]
        mean = {"weight": flat > 0, "reduction": "mean", "normalizer": len(flat)}
        return {
            "a": softmax_cross_entropy(logits, flat - 1, background="first", reduction="mean"),
            "b": smooth_l1_loss(chosen, goal.flatten(0, 1), beta=1 / 9, **mean),
        }

    assert_same(theirs, ours, torch.randn(2 * PRIORS, CLASSES), torch.randn(2 * PRIORS, 4 * CLASSES))
