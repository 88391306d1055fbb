"""aLRP against the golden cases, and against loops in float64."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import ranking_reference
from boxwright.losses.alrp import ALRPLoss, alrp_loss, average_lrp
from boxwright.testing import check_criterion
from goldens import close, golden_cases, load_case


@pytest.mark.parametrize("file", golden_cases("losses/alrp"))
def test_golden_alrp(file: Path) -> None:
    case = load_case(file)
    logits, targets = case["in_logits"].requires_grad_(), case["in_targets"]
    positives = case["in_regression_losses"].requires_grad_()
    box_losses = torch.zeros_like(logits).masked_scatter(targets == 1, positives)
    classification, localization = alrp_loss(
        logits, targets, box_losses, delta=case.param("delta"), tau=case.param("tau")
    )
    close(classification, case["out_cls_loss"])
    close(localization, case["out_loc_loss"])
    close(torch.autograd.grad(classification, logits)[0], case["grad_logits"])
    close(torch.autograd.grad(localization, positives)[0], case["grad_regression_losses"])


@settings(max_examples=60)
@given(ranking_reference.entries, ranking_reference.deltas)
def test_ties_extremes_and_nothing(entries: list[tuple[float, int, float]], delta: float) -> None:
    logits, targets, box_losses = ranking_reference.tensors(entries)
    positive = targets == 1
    expected = ranking_reference.alrp(logits.detach(), positive, targets == 0, box_losses, delta, 0.25)
    classification, localization = alrp_loss(logits, targets, box_losses.requires_grad_(), delta=delta, tau=0.25)
    close(classification, expected[0])
    close(localization, expected[1])
    close(torch.autograd.grad(classification, logits)[0], expected[2])
    close(torch.autograd.grad(localization, box_losses)[0], expected[3])
    if delta == 0:  # the metric is the same with hard steps
        close(average_lrp(logits, targets, box_losses, tau=0.25), expected[0] + expected[1] / 1.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("delta", [1.0, 0.0])
def test_every_precision_equals_the_loop(dtype: torch.dtype, delta: float) -> None:
    logits = (torch.randn(2, 400, 5) * 2 - 2).to(dtype).requires_grad_()
    labels = torch.where(torch.rand(2, 400) < 0.05, torch.randint(0, 5, (2, 400)), -1)
    labels[torch.rand(2, 400) < 0.1] = -2
    boxes = torch.rand(2, 400, dtype=torch.float64, requires_grad=True)
    hot, counted = labels.unsqueeze(-1) == torch.arange(5), labels.unsqueeze(-1) != -2
    spread = boxes.detach().unsqueeze(-1).expand(2, 400, 5).reshape(-1)
    expected = ranking_reference.alrp(
        logits.detach().double().view(-1), hot.view(-1), (counted & ~hot).view(-1), spread, delta, 0.7
    )
    tolerance = 2e-6 if dtype == torch.float32 else 4e-3
    classification, localization = alrp_loss(logits, labels, boxes, delta=delta)
    assert abs(classification.double() - expected[0]) < 1e-6
    assert abs(localization.double() - expected[1]) < 1e-5
    update = torch.autograd.grad(classification, logits)[0].double().view(-1)
    assert (update - expected[2]).norm() < tolerance * expected[2].norm()
    share = torch.autograd.grad(localization, boxes)[0].unsqueeze(-1) * hot
    assert (share.view(-1) - expected[3]).norm() < 1e-5 * expected[3].norm()


def scene() -> tuple[Tensor, Tensor, Tensor]:
    """Logits (3, 50, 4), labels and losses of boxes (3, 50)."""
    return (
        torch.randn(3, 50, 4, requires_grad=True),
        torch.randint(-2, 4, (3, 50)),
        torch.rand(3, 50, requires_grad=True),
    )


def test_what_is_told_of_the_boxes_elsewhere_does_not_matter() -> None:
    logits, labels, boxes = scene()
    dense = (labels.unsqueeze(-1) == torch.arange(4)).long().where(labels.unsqueeze(-1) != -2, -1)
    expected = alrp_loss(logits, labels, boxes)[1]
    for targets, spread in ((labels, boxes), (dense, boxes.unsqueeze(-1).expand_as(dense))):
        positive = targets > 0 if targets is dense else targets >= 0
        holes = torch.where(positive, spread, torch.nan).detach().requires_grad_()
        loss = alrp_loss(logits, targets, holes)[1]
        close(loss, expected, 1e-6)
        assert not torch.autograd.grad(loss, holes)[0].where(~positive, 0).any()


def test_hyper_parameters_that_do_not_fit_are_named() -> None:
    logits, labels, boxes = scene()
    with pytest.raises(ValueError, match=r"box_losses must have the targets' shape \(3, 50\), got \(3,\)"):
        alrp_loss(logits, labels, boxes[:, 0])
    for tau in (1.0, torch.nan):
        for function in (alrp_loss, average_lrp):
            with pytest.raises(ValueError, match=f"tau must be below 1, got {tau}"):
                function(logits, labels, boxes, tau=tau)


def test_the_metric_has_the_published_tau_and_any_scope() -> None:
    logits, labels, boxes = scene()
    for scope in ("batch", "class", "image"):
        classification, localization = alrp_loss(logits, labels, boxes, delta=0, tau=0.7, scope=scope)
        metric = average_lrp(logits, labels, boxes, scope=scope)
        close(metric, classification + localization / 0.6, 1e-6)
        assert not metric.requires_grad


def test_the_balance_is_the_ratio_of_the_sums_of_a_full_period() -> None:
    options = {"delta": 0.25, "tau": 0.5, "scope": "image"}
    loss = ALRPLoss(balance=3, period=2, **options)
    batches, total = [scene() for _ in range(3)], torch.zeros(2)
    for step, batch in enumerate(batches):
        classification, localization = loss(*batch)
        parts = torch.stack(alrp_loss(*batch, **options))
        balance = total.sum() / total[1] if step == 2 else torch.tensor(3.0)
        close(torch.stack([classification, localization]), torch.stack([parts[0], parts[1] * balance]), 1e-6)
        changes = [torch.autograd.grad(each, batch[0])[0] for each in (classification, parts[0])]
        close(*changes, 1e-6)
        total += parts.detach()
        loss.eval()(*batch)
        loss.train()
        assert loss.history[2] == (step + 1) % 2
    assert not any(buffer.requires_grad for buffer in loss.buffers())


def test_boxes_that_are_right_leave_the_balance() -> None:
    logits, labels, boxes = scene()
    loss = ALRPLoss(period=1)
    loss(logits, labels, torch.zeros_like(boxes))
    assert loss.balance == 50


@pytest.mark.parametrize("share", [0.5e-5, 1.5e-5])
def test_a_trace_of_background_moves_nothing(share: float) -> None:
    logits = torch.tensor([0.0, 1.0, 2 * share - 1], dtype=torch.float64, requires_grad=True)
    targets, boxes = torch.tensor([1, 1, 0]), torch.tensor([0.25, 0.5, 0.0])
    expected = ranking_reference.alrp(logits.detach(), targets > 0, targets == 0, boxes.double(), 1.0, 0.7)
    change = torch.autograd.grad(alrp_loss(logits, targets, boxes)[0], logits)[0]
    torch.testing.assert_close(change, expected[2], rtol=1e-6, atol=0)
    assert change.any() == (share > 1e-5)


def box_losses_of(inputs: Tensor, targets: Tensor) -> Tensor:
    return inputs.detach().float().sigmoid().mean(-1) if targets.ndim < inputs.ndim else inputs.detach().sigmoid()


def both(inputs: Tensor, targets: Tensor) -> Tensor:
    """The two losses as one, so that the shared checks can be run."""
    classification, localization = alrp_loss(inputs, targets, box_losses_of(inputs, targets).double())
    return classification + localization.to(classification.dtype)


def test_alrp_is_sound() -> None:
    check_criterion(both, kind="labels", gradcheck=False, pointwise=False, compile=False)


@pytest.mark.slow
def test_alrp_compiles() -> None:
    check_criterion(both, kind="labels", gradcheck=False, pointwise=False)
