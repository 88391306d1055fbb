"""Class weights and the class-balanced losses against both published projects."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from boxwright.losses import (
    SigmoidCrossEntropyLoss,
    SoftmaxCrossEntropyLoss,
    balanced,
    class_weights,
    effective_number,
    sigmoid_cross_entropy,
    sigmoid_focal_loss,
    softmax_cross_entropy,
    softmax_focal_loss,
)
from goldens import Case, golden_cases, load_case


def overflows(case: Case) -> bool:
    """Whether the focal numbers of both projects do, for logits below -88 of a positive in float32 (flaw 3)."""
    own = case["in_logits"].gather(1, case["in_labels"].unsqueeze(1))
    return own.dtype == torch.float32 and bool((own < -88).any())


def check(case: Case, form: str, loss: Tensor, logits: Tensor) -> None:
    tolerance = 2e-5 if case["in_logits"].dtype == torch.float32 else 1e-9
    expected = case[f"out_loss_{form}"].to(loss.dtype)
    torch.testing.assert_close(loss, expected, rtol=tolerance, atol=tolerance)
    gradient = torch.autograd.grad(loss, logits)[0]
    torch.testing.assert_close(gradient, case[f"grad_logits_{form}"], rtol=tolerance, atol=tolerance)


def weights_of(case: Case) -> Tensor:
    weights = effective_number(case["in_samples_per_class"], case.param("beta"))
    torch.testing.assert_close(weights, case["out_class_weights"], rtol=1e-9, atol=1e-9)
    return weights


def check_focal(case: Case, weights: Tensor, logits: Tensor) -> None:
    labels, gamma = case["in_labels"], case.param("gamma")

    def focal(x: Tensor) -> Tensor:
        options = {"class_weight": weights, "reduction": "mean", "normalizer": len(labels)}
        return sigmoid_focal_loss(x, labels, alpha=None, gamma=gamma, **options)

    if not overflows(case):
        check(case, "focal", focal(logits), logits)
        return
    wide = logits.detach().double().requires_grad_()
    loss, exact = focal(logits), focal(wide)
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-5)
    assert torch.autograd.grad(loss, logits)[0].isfinite().all()
    assert loss > case["out_loss_focal"] + 1  # the entry that is most wrong counts again
    assert case["grad_logits_focal"].isnan().any()


@pytest.mark.parametrize("file", golden_cases("losses/class_balanced_tf"))
def test_golden_class_balanced_tf(file: Path) -> None:
    case = load_case(file)
    logits, labels, weights = case["in_logits"].requires_grad_(), case["in_labels"], weights_of(load_case(file))
    options = {"class_weight": weights, "reduction": "mean", "normalizer": len(labels)}
    check(case, "sigmoid", sigmoid_cross_entropy(logits, labels, **options), logits)
    check(case, "softmax", softmax_cross_entropy(logits, labels, background="none", **options), logits)
    check_focal(case, weights, logits)


@pytest.mark.parametrize("file", golden_cases("losses/class_balanced_vandit15"))
def test_golden_class_balanced_vandit15(file: Path) -> None:
    case = load_case(file)
    logits, labels, weights = case["in_logits"].requires_grad_(), case["in_labels"], weights_of(load_case(file))
    options = {"class_weight": weights, "reduction": "mean"}
    check(case, "sigmoid", sigmoid_cross_entropy(logits, labels, **options), logits)
    probabilities = logits.softmax(-1)
    check(case, "softmax", sigmoid_cross_entropy(probabilities, labels, from_logits=False, **options), logits)
    check_focal(case, weights, logits)


@pytest.mark.parametrize("learned", ["weight", "class_weight"])
def test_what_is_learned_has_one_gradient_whatever_the_reduction(learned: str) -> None:
    logits, labels = torch.randn(2, 9, 3), torch.randint(-2, 3, (2, 9))
    values = torch.rand(3) if learned == "class_weight" else torch.rand(2, 9)
    gradients = []
    for reduction in ("none", "sum", "image"):
        leaf = values.clone().requires_grad_()
        sigmoid_focal_loss(logits, labels, reduction=reduction, **{learned: leaf}).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[1:], gradients[:1] * 2)


def test_limits_of_beta() -> None:
    counts = [900, 90, 10]
    assert effective_number(counts, 0.0).tolist() == [1, 1, 1]
    torch.testing.assert_close(effective_number(counts, 1.0), balanced(counts))
    torch.testing.assert_close(effective_number(counts, 1 - 1e-12), balanced(counts), rtol=1e-4, atol=1e-6)
    for weights in (balanced(counts), effective_number(counts, 0.99)):
        torch.testing.assert_close(weights.sum(), torch.tensor(3.0).double())


def test_classes_that_do_not_occur_weigh_one() -> None:
    assert balanced([100, 0, 100]).tolist() == [1, 1, 1]
    assert effective_number([100, 0, 100], 0.0).tolist() == [1, 1, 1]
    weights = effective_number([100, 0, 10], 0.9)
    assert weights[1] == 1
    torch.testing.assert_close(weights.sum(), torch.tensor(3.0).double())


def test_a_rule_waits_for_the_counts() -> None:
    logits, labels = torch.randn(6, 2), torch.tensor([0, 1, 1, 0, -1, -2])
    loss = SigmoidCrossEntropyLoss(class_weight="effective_number(0.9)")
    with pytest.raises(ValueError, match=r"needs counts: call count_classes"):
        loss(logits, labels)
    loss.count_classes([300, 3])
    given = SigmoidCrossEntropyLoss(class_weight=tuple(effective_number([300, 3], 0.9).tolist()))
    torch.testing.assert_close(loss(logits, labels), given(logits, labels))
    assert loss.class_weight.dtype == given.class_weight.dtype == torch.float32
    assert not given.state_dict()  # an option of this run, not of the checkpoint's
    with pytest.raises(ValueError, match="is made for 2 classes, but the data have 3"):
        given.count_classes([3, 300, 1])
    given.count_classes([3, 300])
    torch.testing.assert_close(loss(logits, labels), given(logits, labels))
    torch.testing.assert_close(class_weights("balanced", [1, 3]), balanced([1, 3]))


@pytest.mark.parametrize("loss", [softmax_cross_entropy, softmax_focal_loss])
def test_weights_of_no_class_at_all(loss: Callable[..., Tensor]) -> None:
    labels = torch.tensor([-1, -2, -1])
    values = loss(torch.randn(3, 1), labels, class_weight=torch.zeros(0), reduction="none")
    torch.testing.assert_close(values, torch.zeros(3))


def test_class_weight_is_per_label_and_background_has_one() -> None:
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, -1, -2])
    plain = softmax_cross_entropy(logits, labels)
    weighted = SoftmaxCrossEntropyLoss(class_weight=(2.0, 3.0), reduction="none")(logits, labels)
    torch.testing.assert_close(weighted, plain * torch.tensor([2.0, 3.0, 1.0, 0.0]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: effective_number([1], 1.5), "beta must lie in 0..1, got 1.5"),
        (lambda: balanced([-1, 2]), "none below 0"),
        (lambda: balanced(torch.ones(1, 2)), r"one number per class, .* got \[\[1\.0, 1\.0\]\]"),
        (lambda: SigmoidCrossEntropyLoss(class_weight="inverse"), "got 'inverse'"),
        (lambda: sigmoid_cross_entropy(torch.ones(2, 2), torch.ones(2, 2), class_weight=torch.ones(2)), "needs labels"),
    ],
)
def test_wrong_arguments(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()  # type: ignore[operator]
