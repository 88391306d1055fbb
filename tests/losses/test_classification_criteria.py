"""Every classification loss goes through the tester."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.losses import (
    MatchabilityAwareLoss,
    QualityFocalLoss,
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
