"""The page for those who come from another library: its names exist, and what it calls equal is."""

import inspect
import re

import pytest
import torch
import torchvision
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection import _utils as theirs
from torchvision.models.detection.retinanet import RetinaNetClassificationHead

import boxwright.assigners
import boxwright.boxes
import boxwright.losses
import boxwright.losses.systems
import boxwright.models.heads
from boxwright import losses
from boxwright.assigners import MaxIoUAssigner
from boxwright.boxes import AnchorGenerator, DeltaCoder, DistanceCoder, IntegralCoder, PointGenerator, box_iou
from boxwright.structures import Predictions, Priors, Targets
from pages import DOCS, run_page


def random_boxes(count: int, seed: int = 0, size: float = 60.0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=draw, dtype=torch.float64) * size
    return torch.cat([corner, corner + 2 + torch.rand(count, 2, generator=draw, dtype=torch.float64) * size / 2], dim=1)


def test_every_name_of_ours_exists() -> None:
    page = (DOCS / "coming-from.md").read_text()
    rows = re.findall(r"^\| `.*?\| (.*?) \|", page, re.MULTILINE)
    names = {name for row in rows for name in re.findall(r"`([A-Za-z_0-9]+)", row)}
    homes = (boxwright.losses, boxwright.losses.systems, boxwright.assigners, boxwright.boxes)
    assert len(names) > 25
    assert {name for name in names if not any(hasattr(home, name) for home in homes)} == {"boxwright"}


def test_every_setting_of_ours_exists() -> None:
    table = (DOCS / "coming-from.md").read_text().partition("### Settings")[2].partition("\n## ")[0]
    ours = [row.split(" | ")[-1] for row in re.findall(r"^\| (.*) \|$", table, re.MULTILINE)[1:]]
    code = " ".join(part for row in ours for part in re.findall(r"`([^`]+)`", row))
    homes = (boxwright.losses, boxwright.losses.systems, boxwright.assigners, boxwright.boxes, boxwright.models.heads)
    known = {name: getattr(home, name) for home in homes for name in home.__all__}
    settings = {name for call in known.values() if callable(call) for name in inspect.signature(call).parameters}
    words = set(re.findall(r"(?<![\"\w.-])[a-z_]\w+", code, re.IGNORECASE))
    assert len(words) > 40
    python = {"None", "False", "boxwright", "len", "counts", "quality", "softmax", "sigmoid", "True"}
    assert words - set(known) - settings <= python


def test_the_example_has_torchvision_s_number_and_gradient() -> None:
    found = run_page("coming-from.md")
    assert found["ours"].tolist() == [0, 2, -1, -1]
    assert found["gt_index"].tolist() == [1, -1, -2]
    logits = torch.randn(3, 40, 5, dtype=torch.float64)
    targets = [{"labels": torch.tensor(labels, dtype=torch.int64)} for labels in ([1, 4], [], [2])]
    matched = [torch.randint(-2, max(len(t["labels"]), -1), (40,)) for t in targets]
    results = []
    for kind in (RetinaNetClassificationHead, found["Head"]):
        inputs = logits.clone().requires_grad_()
        loss = kind(8, 1, 5, norm_layer=None).compute_loss(targets, {"cls_logits": inputs}, matched)
        loss.backward()
        results.append((loss.detach(), inputs.grad))
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize(
    ("ours", "name"),
    [
        (lambda a, b: losses.giou_loss(a, b, version="torchvision"), "generalized_box_iou_loss"),
        (losses.diou_loss, "distance_box_iou_loss"),
        (lambda a, b: losses.ciou_loss(a, b, version="torchvision"), "complete_box_iou_loss"),
        (box_iou, "box_iou"),
        (lambda a, b: box_iou(a, b, "giou"), "generalized_box_iou"),
        (lambda a, b: box_iou(a, b, "diou"), "distance_box_iou"),
    ],
)
def test_overlaps_of_torchvision(ours, name: str) -> None:
    a, b = random_boxes(30), random_boxes(30, 1)
    torch.testing.assert_close(ours(a, b), getattr(torchvision.ops, name)(a, b), atol=1e-6, rtol=1e-6)


def test_focal_losses() -> None:
    x, hot = torch.randn(40, 5, dtype=torch.float64), torch.randint(0, 2, (40, 5)).double()
    labels = torch.randint(0, 5, (40,))
    for alpha, theirs_alpha in ((0.25, 0.25), (None, -1)):
        for reduction in ("none", "sum", "mean"):
            expected = torchvision.ops.sigmoid_focal_loss(x, hot, alpha=theirs_alpha, reduction=reduction)
            torch.testing.assert_close(losses.sigmoid_focal_loss(x, hot, alpha=alpha, reduction=reduction), expected)
    # Kornia's: a softmax, in which class 0 weighs 1 - alpha
    logs = x.log_softmax(1)
    share = torch.tensor([0.75, 0.25, 0.25, 0.25, 0.25], dtype=torch.float64)
    elements = -share * (1 - logs.exp()).square() * logs * functional.one_hot(labels, 5)
    ours = losses.softmax_focal_loss(x, labels, alpha=[0.75, 0.25, 0.25, 0.25, 0.25], background="none")
    torch.testing.assert_close(ours, elements.sum(1))
    torch.testing.assert_close(ours.mean() / 5, elements.mean())


def test_quality_focal_loss_adds_up_classes_in_mmdetection() -> None:
    x, labels, scores = torch.randn(40, 5), torch.randint(-1, 5, (40,)), torch.rand(40)
    rows = losses.quality_focal_loss(x, labels, scores=scores).sum(1)  # what its golden data have
    mean = losses.quality_focal_loss(x, labels, scores=scores, reduction="mean")
    torch.testing.assert_close(mean * 5, rows.mean())
    divided = losses.quality_focal_loss(x, labels, scores=scores, reduction="mean", normalizer=7)
    torch.testing.assert_close(divided, rows.sum() / 7)


def test_boxes_of_ultralytics() -> None:
    a, b, eps = random_boxes(40), random_boxes(40, 1), 1e-7
    (w, h), (wt, ht) = (a[:, 2:] - a[:, :2]).T, (b[:, 2:] - b[:, :2]).T
    h, ht = h + eps, ht + eps
    inner = (torch.minimum(a, b)[:, 2:] - torch.maximum(a, b)[:, :2]).clamp(min=0).prod(1)
    overlap = inner / (w * h + wt * ht - inner + eps)
    hull = (torch.maximum(a, b)[:, 2:] - torch.minimum(a, b)[:, :2]).square().sum(1) + eps
    distance = ((a[:, :2] + a[:, 2:]) - (b[:, :2] + b[:, 2:])).square().sum(1) / 4
    v = 4 / torch.pi**2 * (torch.atan(wt / ht) - torch.atan(w / h)).square()
    expected = 1 - (overlap - distance / hull - v * (v / (v - overlap + 1 + eps)))
    torch.testing.assert_close(losses.ciou_loss(a, b, version="torchvision"), expected, atol=1e-7, rtol=1e-7)

    bins = 16
    logits, sides = torch.randn(40, 4, bins), torch.rand(40, 4) * 20
    goal = sides.clamp(0, bins - 1 - 0.01)
    left = goal.long()
    two = [functional.cross_entropy(logits.flatten(0, 1), (left + i).flatten(), reduction="none") for i in (0, 1)]
    share = (left + 1 - goal).flatten()
    expected = (two[0] * share + two[1] * (1 - share)).view(40, 4).mean(1).sum() / 9
    priors = Priors(torch.zeros(40, 4), torch.zeros(40, 2), torch.ones(40))
    boxes = torch.cat([-sides[:, :2], sides[:, 2:]], dim=1)
    encoded = IntegralCoder(bins - 1, margin=0.01).encode(priors, boxes)
    ours = losses.distribution_focal_loss(logits, encoded, reduction="mean", normalizer=4 * 9)
    torch.testing.assert_close(ours, expected)


def test_the_criterion_of_yolov8_is_the_sum_of_its_parts() -> None:
    torch.manual_seed(1)
    page = run_page("coming-from.md")
    logits, sides, priors, targets = (page[name] for name in ("logits", "sides", "priors", "targets"))
    coder = page["criterion"].coder
    predicted = coder.decode(priors, sides)
    match = page["criterion"].assigner(priors, targets, Predictions(logits, sides, boxes=predicted))
    total, objects = match.score.sum().clamp(min=1), match.boxes(targets)
    assert match.positive.sum() > 1
    hot = functional.one_hot(match.labels(targets).clamp(min=0), 3) * match.score[..., None]
    expected = {
        "classification": 0.5 * functional.binary_cross_entropy_with_logits(logits, hot, reduction="sum"),
        "box": 7.5 * (losses.ciou_loss(predicted, objects, version="torchvision") * match.score).sum(),
        "distribution": 1.5
        * (
            losses.distribution_focal_loss(sides.unflatten(2, (4, 16)), coder.encode(priors, objects)).mean(2)
            * match.score
        ).sum(),
    }
    assert page["losses"].keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(page["losses"][name], value / total)


@pytest.mark.parametrize("low_quality", [False, True])
def test_torchvision_s_matcher(low_quality: bool) -> None:
    priors = AnchorGenerator.square((8, 16), scale=3, offset=0.5)([(8, 8), (4, 4)])
    objects = random_boxes(6).float()
    expected = theirs.Matcher(0.5, 0.4, low_quality)(torchvision.ops.box_iou(objects, priors.boxes))
    ours = MaxIoUAssigner(0.5, 0.4, low_quality="all" if low_quality else "none", keep_argmax=True)
    targets = Targets.from_list([{"boxes": objects, "labels": torch.zeros(6, dtype=torch.int64)}])
    assert (expected >= 0).any()
    assert torch.equal(ours(priors, targets).gt_index[0], expected)


def test_torchvision_s_coders() -> None:
    weights = (10.0, 10.0, 5.0, 5.0)
    priors = AnchorGenerator.square((8,), scale=3, offset=0.5)([(8, 8)])
    boxes, deltas = random_boxes(64).float(), torch.randn(64, 4) * 5
    coder, box_coder = DeltaCoder(stds=tuple(1 / w for w in weights), clamp="upper"), theirs.BoxCoder(weights)
    torch.testing.assert_close(coder.encode(priors, boxes), box_coder.encode_single(boxes, priors.boxes))
    deltas[0, 2:] = 100.0
    torch.testing.assert_close(coder.decode(priors, deltas), box_coder.decode_single(deltas, priors.boxes))
    points = PointGenerator((8,))([(8, 8)])  # whose boxes are one stride wide
    linear = theirs.BoxLinearCoder(normalize_by_size=True)
    torch.testing.assert_close(DistanceCoder().encode(points, boxes), linear.encode(points.boxes, boxes))
    torch.testing.assert_close(DistanceCoder().decode(points, deltas), linear.decode(deltas, points.boxes))
