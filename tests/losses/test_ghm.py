"""Gradient harmonizing against golden cases, its state, and two processes."""

from pathlib import Path

import pytest
import torch

from boxwright.losses import GHMCLoss, GHMRLoss
from boxwright.testing import check_criterion
from goldens import close, golden_cases, load_case


@pytest.mark.parametrize("file", golden_cases("losses/ghmc"))
def test_golden_ghmc(file: Path) -> None:
    case = load_case(file)
    loss = GHMCLoss(case.param("bins"), case.param("momentum"))
    for step in range(case.param("steps")):
        logits = case[f"in_logits_s{step}"].requires_grad_()
        targets = case.get(f"in_targets_s{step}")
        if targets is None:
            labels = case[f"in_labels_s{step}"]
            targets = torch.where(labels < logits.shape[-1], labels, -1)
        value = loss(logits, targets, weight=case[f"in_label_weight_s{step}"]) * case.param("loss_weight")
        close(value, case[f"out_loss_s{step}"])
        close(torch.autograd.grad(value, logits)[0], case[f"grad_logits_s{step}"])
        if f"out_acc_sum_s{step}" in case:
            close(loss.density.running, case[f"out_acc_sum_s{step}"])


@pytest.mark.parametrize("file", golden_cases("losses/ghmr"))
def test_golden_ghmr(file: Path) -> None:
    case = load_case(file)
    loss = GHMRLoss(case.param("mu"), case.param("bins"), case.param("momentum"))
    for step in range(case.param("steps")):
        pred = case[f"in_pred_s{step}"].requires_grad_()
        value = loss(pred, case[f"in_target_s{step}"], weight=case[f"in_label_weight_s{step}"])
        close(value * case.param("loss_weight"), case[f"out_loss_s{step}"])
        close(torch.autograd.grad(value, pred)[0] * case.param("loss_weight"), case[f"grad_pred_s{step}"])
        if f"out_acc_sum_s{step}" in case:
            close(loss.density.running, case[f"out_acc_sum_s{step}"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_edge_belongs_to_the_bin_above(dtype: torch.dtype) -> None:
    length = torch.tensor([0.0, 0.1, 0.15, 0.3, 0.35, 0.7, 1.0], dtype=dtype)
    density = GHMCLoss(10, momentum=0.0).density(length, length != 0.35)
    shares = torch.tensor([1, 1 / 2, 1 / 2, 1, 0, 1, 1], dtype=dtype) / 5
    torch.testing.assert_close(density, shares)


@pytest.mark.parametrize("cls", [GHMCLoss, GHMRLoss])
def test_each_entry_is_worth_the_total_over_its_bin(cls: type[GHMCLoss | GHMRLoss]) -> None:
    """Slopes 0.95, 0.95, 0.25 and 0.55 fill three of ten bins; the fourth entry does not count."""
    slopes = torch.tensor([0.95, -0.95, 0.25, 0.55], dtype=torch.float64)
    weight = torch.tensor([0.2, 0.5, 0.1, 0.0], dtype=torch.float64)
    if cls is GHMCLoss:
        inputs, targets, total = slopes.abs().logit(), torch.zeros(4, dtype=torch.float64), 3.0
        plain = -(1 - slopes.abs()).log()
    else:
        inputs, targets, total = 0.02 * slopes / (1 - slopes**2).sqrt(), torch.zeros(4, dtype=torch.float64), 0.8
        plain = (inputs**2 + 0.02**2).sqrt() - 0.02
    expected = plain * total / 2 * torch.tensor([1 / 2, 1 / 2, 1, 0])
    for reduction, value in (("none", expected), ("sum", expected.sum()), ("mean", expected.sum() / total)):
        loss = cls(bins=10, momentum=0.0, reduction=reduction)
        torch.testing.assert_close(loss(inputs, targets, weight=weight), value)
    one = cls(bins=1, momentum=0.0, reduction="none")(inputs, targets, weight=weight)
    torch.testing.assert_close(one, plain * (weight > 0) * total / 3)


def test_class_weights_do_not_change_what_is_counted() -> None:
    logits, labels = torch.randn(9, 2), torch.tensor([0, 1, -1, -2, 0, 1, 1, -1, 0])
    plain, heavy = (GHMCLoss(class_weight=weight, reduction="none") for weight in (None, (0.5, 3.0)))
    factor = torch.tensor([0.5, 3.0, 0.0, 1.0])[labels].unsqueeze(1)  # and of what is ignored, and of background
    torch.testing.assert_close(heavy(logits, labels), plain(logits, labels) * factor)


def test_running_counts_move_in_training_mode_only() -> None:
    loss = GHMCLoss().eval()
    loss(torch.randn(4, 3), torch.tensor([0, 1, -1, -2]))
    assert not loss.density.running.any()
    loss.train()(torch.randn(4, 3), torch.tensor([0, 1, -1, -2]))
    assert loss.density.running.sum() == pytest.approx(9 * 0.25)


@pytest.mark.parametrize("loss", [GHMCLoss(), GHMCLoss(momentum=0.0), GHMRLoss()], ids=["ghmc", "no momentum", "ghmr"])
def test_tester(loss: torch.nn.Module) -> None:
    check_criterion(loss, pointwise=False, compile=False, processes=False)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [GHMCLoss(), GHMRLoss()], ids=["ghmc", "ghmr"])
def test_tester_compiled_and_in_two_processes(loss: torch.nn.Module) -> None:
    check_criterion(loss, pointwise=False)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"momentum in 0\.\.1"):
        GHMCLoss(momentum=1.0)


def test_inputs_need_not_be_contiguous() -> None:
    logits, labels = torch.randn(5, 3, 4), torch.randint(-2, 4, (5, 3))
    turned = logits.transpose(0, 1).contiguous().transpose(0, 1)
    assert GHMCLoss()(turned, labels) == GHMCLoss()(logits, labels)
