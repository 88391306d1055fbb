"""Every classification loss goes through the tester, and keeps the conventions of targets, weights and reduction."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.losses import (
    ClassificationLoss,
    EqualizedV2Loss,
    FederatedLoss,
    MatchabilityAwareLoss,
    QualityFocalLoss,
    SeesawLoss,
    SigmoidCrossEntropyLoss,
    SigmoidFocalLoss,
    SoftmaxCrossEntropyLoss,
    SoftmaxFocalLoss,
    TaskAlignedFocalLoss,
    VarifocalLoss,
)
from boxwright.testing import check_criterion


def elementwise(form: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """A reference of (p, t, positive) written with probabilities and loops over nothing clever."""

    def loss(x: Tensor, labels: Tensor, *, scores: Tensor, weight: Tensor, normalizer: Tensor) -> Tensor:
        positive = F.one_hot(labels.clamp(min=0), x.shape[-1]).bool() & (labels >= 0).unsqueeze(-1)
        t = positive * scores.unsqueeze(-1)
        counted = weight * (labels != -2)
        return (form(x.sigmoid(), t, positive) * counted.unsqueeze(-1)).sum() / normalizer

    return loss


def bce(p: Tensor, t: Tensor) -> Tensor:
    return -t * p.log() - (1 - t) * (1 - p).log()


def softmax(x: Tensor, labels: Tensor, *, scores: Tensor, weight: Tensor, normalizer: Tensor) -> Tensor:
    columns = torch.where(labels == -1, x.shape[-1] - 1, labels.clamp(min=0))
    cost = F.cross_entropy(x.flatten(0, 1), columns.flatten(), reduction="none").view_as(weight)
    share = torch.where(labels >= 0, scores, 1.0)
    return (cost * share * weight * (labels != -2)).sum() / normalizer


REFERENCES: list[tuple[nn.Module, Callable[..., Tensor]]] = [
    (SigmoidCrossEntropyLoss(), elementwise(lambda p, t, y: bce(p, t))),
    (SigmoidCrossEntropyLoss(label_smoothing=0.1), elementwise(lambda p, t, y: bce(p, 0.9 * t + 0.05))),
    (
        SigmoidFocalLoss(),
        elementwise(lambda p, t, y: (0.25 * t + 0.75 * (1 - t)) * ((1 - p) * t + p * (1 - t)) ** 2 * bce(p, t)),
    ),
    (
        SigmoidFocalLoss(alpha=None, gamma=0.5),
        elementwise(lambda p, t, y: ((1 - p) * t + p * (1 - t)) ** 0.5 * bce(p, t)),
    ),
    (QualityFocalLoss(), elementwise(lambda p, t, y: (p - t) ** 2 * bce(p, t))),
    (TaskAlignedFocalLoss(gamma=1.5), elementwise(lambda p, t, y: (p - t).abs() ** 1.5 * bce(p, t))),
    (VarifocalLoss(), elementwise(lambda p, t, y: torch.where(y, t, 0.75 * p**2) * bce(p, t))),
    (
        MatchabilityAwareLoss(detach=False),
        elementwise(lambda p, t, y: torch.where(y, bce(p, t**1.5), p**1.5 * bce(p, torch.zeros_like(p)))),
    ),
    (SoftmaxCrossEntropyLoss(), softmax),
]


@pytest.mark.parametrize(("loss", "reference"), REFERENCES, ids=lambda part: type(part).__name__)
def test_tester(loss: nn.Module, reference: Callable[..., Tensor]) -> None:
    check_criterion(loss, reference=reference, compile=False)


@pytest.mark.parametrize(
    "loss",
    [
        SoftmaxFocalLoss(),
        SoftmaxFocalLoss(gamma=0.5, background="first"),
        SigmoidFocalLoss(from_logits=False),
        QualityFocalLoss(from_logits=False),
        SoftmaxCrossEntropyLoss(label_smoothing=0.1, background="none"),
        SigmoidFocalLoss(class_weight=(0.5, 1.0, 1.5, 2.0, 1.0)),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_tester_of_other_forms(loss: nn.Module) -> None:
    check_criterion(loss, compile=False)


# a detached modulator is left out of the derivative on purpose
@pytest.mark.parametrize("loss", [VarifocalLoss(detach=True), MatchabilityAwareLoss()], ids=["varifocal", "mal"])
def test_tester_of_detached_forms(loss: nn.Module) -> None:
    check_criterion(loss, gradcheck=False, compile=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "loss",
    [SigmoidFocalLoss(), QualityFocalLoss(from_logits=False), VarifocalLoss(), SoftmaxFocalLoss()],
    ids=lambda loss: type(loss).__name__,
)
def test_tester_compiled(loss: nn.Module) -> None:
    check_criterion(loss, gradcheck=False)


CLASSES = 4
ONE_PER_CLASS: list[ClassificationLoss] = [
    SigmoidCrossEntropyLoss(reduction="none"),
    SigmoidCrossEntropyLoss(label_smoothing=0.1, reduction="none"),
    SigmoidFocalLoss(reduction="none"),
    SigmoidFocalLoss(alpha=(0.1, 0.2, 0.3, 0.4), reduction="none"),
    QualityFocalLoss(reduction="none"),
    TaskAlignedFocalLoss(reduction="none"),
    VarifocalLoss(reduction="none"),
    MatchabilityAwareLoss(reduction="none"),
    EqualizedV2Loss(CLASSES, reduction="none").eval(),
    FederatedLoss(CLASSES, reduction="none"),
]
ONE_PER_PRIOR: list[ClassificationLoss] = [
    SoftmaxCrossEntropyLoss(reduction="none"),
    SoftmaxCrossEntropyLoss(label_smoothing=0.1, background="first", reduction="none"),
    SoftmaxFocalLoss(alpha=0.3, reduction="none"),
    SeesawLoss(CLASSES, reduction="none").eval(),
]
EVERY = ONE_PER_CLASS + ONE_PER_PRIOR
DENSE = EVERY[:-1]  # seesaw loss takes labels only
labels_or_dense = pytest.mark.parametrize(
    ("loss", "dense"), [(loss, False) for loss in EVERY] + [(loss, True) for loss in DENSE], ids=repr
)


def problem(loss: ClassificationLoss, dense: bool, *lead: int) -> tuple[Tensor, Tensor]:
    """Logits and targets for a loss, in float64."""
    columns = CLASSES + (loss in ONE_PER_PRIOR)
    logits = torch.randn(*lead, columns, dtype=torch.float64, requires_grad=True)
    return logits, torch.rand_like(logits).detach() if dense else torch.randint(-2, CLASSES, lead)


@labels_or_dense
@pytest.mark.parametrize("lead", [(), (7,), (2, 9)], ids=str)
@pytest.mark.parametrize("learned", [False, True], ids=["constant", "learned"])
def test_what_is_added_up_is_the_elements(
    loss: ClassificationLoss, dense: bool, lead: tuple[int, ...], learned: bool
) -> None:
    """Kernels never see elements; a weight may carry a gradient, and one prior needs no dimension."""
    logits, targets = problem(loss, dense, *lead)
    weight = torch.rand(lead, dtype=torch.float64, requires_grad=learned)
    elements = loss(logits, targets, weight=weight)
    images = elements.flatten(1).sum(1) if elements.ndim > 1 else elements
    priors = weight.numel() if dense else int((targets != -2).sum())
    count = max(priors * (CLASSES if loss in ONE_PER_CLASS else 1), 1)
    asked = [logits, weight] if learned else [logits]
    for reduction, normalizer, expected in (
        ("sum", None, elements.sum()),
        ("mean", None, elements.sum() / count),
        ("mean", 3.0, elements.sum() / 3),
        ("image", None, images),
        ("image", 3.0, images / 3),
    ):
        reduced = copy.deepcopy(loss)
        reduced.reduction = reduction
        value = reduced(logits, targets, weight=weight, normalizer=normalizer)
        torch.testing.assert_close(value, expected)
        found = torch.autograd.grad(value.sum(), asked)
        torch.testing.assert_close(found, torch.autograd.grad(expected.sum(), asked, retain_graph=True))
    with pytest.raises(ValueError, match="'none' does not use a normalizer"):
        loss(logits, targets, normalizer=3.0)


@pytest.mark.parametrize("loss", EVERY, ids=repr)
def test_class_weights_multiply_the_priors_of_their_class(loss: ClassificationLoss) -> None:
    logits, labels = problem(loss, False, 30)
    heavy = copy.deepcopy(loss)
    heavy.class_weight = torch.tensor([0.5, 2.0, 3.0, 0.0])
    factor = torch.tensor([0.5, 2.0, 3.0, 0.0, 0.0, 1.0])[labels]  # and of what is ignored, and of background
    plain = loss(logits, labels)
    torch.testing.assert_close(heavy(logits, labels), plain * factor.view(-1, *[1] * (plain.ndim - 1)))


@labels_or_dense
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_inputs_decide_the_dtype(loss: ClassificationLoss, dense: bool, dtype: torch.dtype) -> None:
    logits, targets = problem(loss, dense, 2, 9)
    options = {"weight": torch.rand(2, 9, dtype=torch.float64)}
    if not dense:
        options["scores"] = torch.rand(2, 9, dtype=torch.float64)
    assert loss(logits.to(dtype), targets, **options).dtype == torch.promote_types(dtype, torch.float32)


@pytest.mark.parametrize("loss", DENSE, ids=repr)
def test_dense_targets_get_no_gradient(loss: ClassificationLoss) -> None:
    logits, targets = problem(loss, True, 9)
    loss(logits, targets.requires_grad_()).sum().backward()
    assert logits.grad is not None
    assert targets.grad is None
