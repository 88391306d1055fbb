"""Focal loss against the golden cases and against torchvision."""

from pathlib import Path

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss as torchvision_focal

from boxwright.losses.focal import SigmoidFocalLoss, sigmoid_focal_loss, softmax_focal_loss
from goldens import close, golden_cases, gradient, load_case

FLOAT32_EPS = 1.1920929e-07  # added to the average factor by the newer generation of the original


@pytest.mark.parametrize("file", golden_cases("losses/sigmoid_focal"))
def test_golden_sigmoid_focal(file: Path) -> None:
    case = load_case(file)
    logits, targets = case["in_logits"].requires_grad_(), case["in_targets"]
    module = {"alpha": case.param("alpha"), "gamma": case.param("gamma")}
    close(sigmoid_focal_loss(logits, targets, **module), case["out_loss_none"])
    total = sigmoid_focal_loss(logits, targets, **module, reduction="sum")
    close(total, case["out_loss_sum"])
    close(gradient(total, logits), case["grad_logits_of_sum"])
    close(SigmoidFocalLoss(**module)(logits, targets), case["out_loss_mean"])
    if "in_weight" in case:
        normalizer = case.param("avg_factor") + FLOAT32_EPS
        weighted = SigmoidFocalLoss(**module)(logits, targets, weight=case["in_weight"], normalizer=normalizer)
        close(weighted, case["out_loss_weighted"])
        close(gradient(weighted, logits), case["grad_logits_weighted"])


@pytest.mark.parametrize("file", golden_cases("losses/focal_with_prob"))
def test_golden_focal_with_prob(file: Path) -> None:
    case = load_case(file)
    prob = case["in_prob"].requires_grad_()
    labels = torch.where(case["in_labels"] < prob.shape[-1], case["in_labels"], -1)
    module = {"alpha": case.param("alpha"), "gamma": case.param("gamma"), "from_logits": False}
    loss = sigmoid_focal_loss(prob, labels, weight=case.get("in_weight"), **module)
    close(loss, case["out_loss_none"])
    close(gradient(loss.sum(), prob), case["grad_prob_of_sum"])
    mean = SigmoidFocalLoss(**module)(prob, labels, weight=case.get("in_weight"))
    close(mean, case["out_loss_mean"])
    mean = SigmoidFocalLoss(**module)(prob, labels, weight=case.get("in_weight"), normalizer=case.param("avg_factor"))
    close(mean, case["out_loss_mean_avg_factor"])


def test_sparse_labels_equal_dense_targets_and_torchvision() -> None:
    logits = torch.randn(3, 50, 7, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(-1, 7, (3, 50))
    dense = (labels.unsqueeze(-1) == torch.arange(7)).to(logits.dtype)
    expected = torchvision_focal(logits, dense, alpha=0.3, gamma=1.5, reduction="sum")
    for targets in (labels, dense):
        loss = sigmoid_focal_loss(logits, targets, alpha=0.3, gamma=1.5, reduction="sum")
        close(loss, expected)
        close(gradient(loss, logits), gradient(torchvision_focal(logits, dense, 0.3, 1.5, "sum"), logits))
    none = sigmoid_focal_loss(logits, labels, alpha=0.3, gamma=1.5)
    close(none, torchvision_focal(logits, dense, 0.3, 1.5))


def test_alpha_per_class() -> None:
    logits, labels = torch.randn(20, 2), torch.randint(-1, 2, (20,))
    per_class = sigmoid_focal_loss(logits, labels, alpha=(0.25, 0.75))
    close(per_class[:, 0], sigmoid_focal_loss(logits, labels, alpha=0.25)[:, 0])
    close(per_class[:, 1], sigmoid_focal_loss(logits, labels, alpha=0.75)[:, 1])
    close(sigmoid_focal_loss(logits, labels, alpha=(0.25, 0.75), reduction="sum"), per_class.sum(), 1e-5)
    with pytest.raises(ValueError, match=r"one value per class \(2\)"):
        sigmoid_focal_loss(logits, labels, alpha=(0.1, 0.2, 0.3))


def test_softmax_focal_follows_its_formula() -> None:
    logits = torch.randn(30, 4, dtype=torch.float64)
    labels = torch.randint(-2, 3, (30,))
    p = logits.softmax(-1)
    p_y = p.gather(1, torch.where(labels < 0, 3, labels).unsqueeze(1)).squeeze(1)
    expected = torch.where(labels == -2, 0, -((1 - p_y) ** 1.5) * p_y.log())
    close(softmax_focal_loss(logits, labels, gamma=1.5), expected)
    dense = torch.nn.functional.one_hot(torch.where(labels < 0, 3, labels), 4).double()
    soft = softmax_focal_loss(logits, dense, gamma=1.5, alpha=0.5)
    close(soft[labels != -2], 0.5 * expected[labels != -2])
    alpha = (0.1, 0.2, 0.3, 0.4)
    balanced = expected * torch.tensor(alpha, dtype=torch.float64)[labels.clamp(min=-1)]
    close(softmax_focal_loss(logits, labels, gamma=1.5, alpha=alpha), balanced)
    close(softmax_focal_loss(logits, dense, gamma=1.5, alpha=alpha)[labels != -2], balanced[labels != -2])
