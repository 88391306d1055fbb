"""Seesaw, equalised v2 and federated loss against their formulas, written out with loops."""

import pytest
import torch
import torch.nn.functional as F

from boxwright.losses import (
    EqualizedV2Loss,
    FederatedLoss,
    SeesawLoss,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
)
from boxwright.losses.cross_entropy import Background
from boxwright.testing import check_criterion

LABELS = torch.tensor([0, 0, 0, 1, 1, 2, -1, -2])
SEEN = [6, 4, 2, 1]  # by two calls; the last class counts once though never seen


@pytest.mark.parametrize("background", ["last", "first", "none"])
def test_seesaw_follows_its_formula(background: Background) -> None:
    first, columns = int(background == "first"), 4 + (background != "none")
    logits = torch.randn(8, columns, dtype=torch.float64, requires_grad=True)
    scores = torch.rand(8, dtype=torch.float64)
    loss = SeesawLoss(4, p=0.8, q=2.0, background=background, reduction="none")
    loss(logits, LABELS)
    actual = loss(logits, LABELS, scores=scores)
    assert loss.seen.tolist() == [6, 4, 2, 0]
    costs, p = [], logits.detach().softmax(-1)
    for row, label in enumerate(LABELS.tolist()):
        column = label + first if label >= 0 else {"last": 4, "first": 0, "none": 0}[background]
        terms = []
        for j in range(columns):
            s = 1.0
            if label >= 0 and 0 <= j - first < 4:
                s *= min(1, SEEN[j - first] / SEEN[label]) ** 0.8
                s *= max(1, (p[row, j] / p[row, column]).item()) ** 2.0
            terms.append(s * logits[row, j].exp())
        free = label == -2 or (label == -1 and background == "none")
        share = 0 if free else scores[row] if label >= 0 else 1
        costs.append((torch.stack(terms).sum().log() - logits[row, column]) * share)
    expected = torch.stack(costs)
    torch.testing.assert_close(actual, expected)
    slopes = [torch.autograd.grad(value.sum(), logits)[0] for value in (actual, expected)]
    torch.testing.assert_close(slopes[0], slopes[1])


def test_seesaw_without_imbalance_is_cross_entropy() -> None:
    loss = SeesawLoss(3, p=0.0, q=0.0, background="first", reduction="none")
    logits = torch.randn(8, 4)
    torch.testing.assert_close(loss(logits, LABELS), softmax_cross_entropy(logits, LABELS, background="first"))
    assert loss.seen.tolist() == [3, 2, 1]
    loss.eval()(logits, LABELS)
    assert loss.seen.tolist() == [3, 2, 1]


def test_equalised_v2_follows_its_formula() -> None:
    loss = EqualizedV2Loss(3, reduction="none")
    logits, scores, weight = torch.randn(8, 3, dtype=torch.float64), torch.rand(8).double(), torch.rand(8).double()
    target = F.one_hot(LABELS.clamp(min=0), 3) * torch.where(LABELS >= 0, scores, 0).unsqueeze(1)
    counted = (weight * (LABELS != -2)).unsqueeze(1)
    plain = sigmoid_cross_entropy(logits, LABELS, scores=scores, weight=weight)
    # nothing seen yet: f = 1
    factor, positive, negative = torch.ones_like(target), torch.zeros_like(target[0]), torch.zeros_like(target[0])
    for _ in range(2):
        torch.testing.assert_close(loss(logits, LABELS, scores=scores, weight=weight), plain * factor)
        length = (logits.sigmoid() - target).abs() * counted * factor
        positive, negative = positive + (length * target).sum(0), negative + (length * (1 - target)).sum(0)
        torch.testing.assert_close(loss.positive_gradient, positive)
        torch.testing.assert_close(loss.negative_gradient, negative)
        f = torch.sigmoid(12 * (positive / negative - 0.8))
        factor = target * (1 + 4 * (1 - f)) + (1 - target) * f
    loss.eval()(logits, LABELS)
    torch.testing.assert_close(loss.positive_gradient, positive)


def test_federated_keeps_the_classes_of_the_batch_and_draws_the_rest() -> None:
    logits = torch.zeros(8, 20)
    columns = [FederatedLoss(classes=5, reduction="none")(logits, LABELS)[0] > 0 for _ in range(200)]
    drawn = torch.stack(columns)
    assert drawn[:, :3].all()
    assert (drawn.sum(1) == 5).all()
    assert drawn.any(0).all()
    frequency = (1.0,) * 19 + (0.0,)
    never = torch.stack([FederatedLoss(5, frequency, reduction="none")(logits, LABELS)[0] > 0 for _ in range(50)])
    assert not never[:, 19].any()
    many = FederatedLoss(classes=2, reduction="none")(logits, LABELS)[0] > 0
    assert many.nonzero().flatten().tolist() == [0, 1, 2]


def test_federated_draws_by_the_root_of_the_frequency() -> None:
    loss = FederatedLoss(classes=1, frequency=(16.0, 1.0, 1.0), reduction="none")
    drawn = torch.stack([loss(torch.zeros(1, 3), torch.tensor([-1]))[0] > 0 for _ in range(3000)])
    torch.testing.assert_close(
        drawn.double().mean(0), torch.tensor([4, 1, 1]) / 6, rtol=0, atol=0.025, check_dtype=False
    )


def test_federated_over_all_classes_is_cross_entropy() -> None:
    logits, scores = torch.randn(8, 4), torch.rand(8)
    loss = FederatedLoss(classes=9, reduction="none")(logits, LABELS, scores=scores)
    torch.testing.assert_close(loss, sigmoid_cross_entropy(logits, LABELS, scores=scores))


TESTED = [SeesawLoss(4), EqualizedV2Loss(5), FederatedLoss(classes=5)]


# all three differentiate a factor that counts as a constant, or keep state
@pytest.mark.parametrize("loss", TESTED, ids=lambda loss: type(loss).__name__)
def test_tester(loss: torch.nn.Module) -> None:
    pointwise = isinstance(loss, FederatedLoss)
    check_criterion(loss, gradcheck=pointwise, pointwise=pointwise, compile=False, processes=False)


@pytest.mark.slow
@pytest.mark.parametrize("loss", TESTED, ids=lambda loss: type(loss).__name__)
def test_tester_compiled_and_in_two_processes(loss: torch.nn.Module) -> None:
    pointwise = isinstance(loss, FederatedLoss)
    check_criterion(loss, gradcheck=pointwise, pointwise=pointwise)


def test_wrong_shapes() -> None:
    with pytest.raises(ValueError, match=r"4 columns, got shape \(8, 3\)"):
        SeesawLoss(3)(torch.zeros(8, 3), LABELS)
    with pytest.raises(ValueError, match=r"needs labels, got dense targets of shape \(8, 4\)"):
        SeesawLoss(3)(torch.zeros(8, 4), torch.zeros(8, 4))
    with pytest.raises(ValueError, match=r"3 columns, got shape \(8, 4\)"):
        EqualizedV2Loss(3)(torch.zeros(8, 4), LABELS)


@pytest.mark.parametrize(
    "loss", [SeesawLoss(3), EqualizedV2Loss(4), FederatedLoss()], ids=lambda loss: type(loss).__name__
)
def test_a_single_prior_is_enough(loss: torch.nn.Module) -> None:
    logits, label = torch.randn(4), torch.tensor(2)
    torch.testing.assert_close(loss.eval()(logits, label), loss(logits[None], label[None]))
