"""What the classification losses say to targets that cannot be meant."""

import pytest
import torch

from boxwright import losses
from boxwright.losses import ClassificationLoss

CLASSES = 3
SIGMOIDS: list[ClassificationLoss] = [
    losses.SigmoidFocalLoss(),
    losses.SigmoidCrossEntropyLoss(label_smoothing=0.1),
    losses.GHMCLoss(),
    losses.EqualizedV2Loss(CLASSES),
    losses.FederatedLoss(),
]
SOFTMAXES: list[ClassificationLoss] = [
    losses.SoftmaxCrossEntropyLoss(),
    losses.SoftmaxFocalLoss(background="first"),
    losses.SeesawLoss(CLASSES),
]


@pytest.mark.parametrize("loss", SIGMOIDS + SOFTMAXES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("label", [CLASSES, 90, -3])
def test_labels_of_no_class_are_refused(loss: ClassificationLoss, label: int) -> None:
    columns = CLASSES + (loss in SOFTMAXES)
    known = torch.tensor([0, -1, CLASSES - 1, -2])
    assert loss(torch.randn(4, columns), known).isfinite()
    with pytest.raises(ValueError, match=rf"0 to {CLASSES - 1} for inputs of {CLASSES} classes, got {label}$"):
        loss(torch.randn(4, columns), torch.tensor([0, -1, label, -2]))


@pytest.mark.parametrize("loss", SIGMOIDS + SOFTMAXES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8, torch.bool])
def test_labels_of_another_dtype_are_taken_or_named(loss: ClassificationLoss, dtype: torch.dtype) -> None:
    inputs, labels = torch.randn(4, CLASSES + (loss in SOFTMAXES)), torch.tensor([0, 1, 1, 0])
    if dtype == torch.int32:
        assert loss(inputs, labels.to(dtype)).isfinite()
    else:
        with pytest.raises(TypeError, match=rf"int64 labels of shape \(4,\) .* got {dtype} of shape \(4,\)"):
            loss(inputs, labels.to(dtype))


@pytest.mark.parametrize("loss", SIGMOIDS + SOFTMAXES, ids=lambda loss: type(loss).__name__)
def test_one_class_weight_per_class(loss: ClassificationLoss) -> None:
    columns = CLASSES + (loss in SOFTMAXES)
    loss.class_weight = torch.ones(CLASSES + 2)
    try:
        with pytest.raises(ValueError, match=r"class_weight must hold one number per class \(3,\), got \(5,\)"):
            loss(torch.randn(4, columns), torch.tensor([0, -1, 2, -2]))
    finally:
        loss.class_weight = None


@pytest.mark.parametrize("loss", SIGMOIDS + SOFTMAXES, ids=lambda loss: type(loss).__name__)
def test_scores_are_targets_and_get_no_gradient(loss: ClassificationLoss) -> None:
    inputs = torch.randn(4, CLASSES + (loss in SOFTMAXES), requires_grad=True)
    scores = torch.rand(4, requires_grad=True)
    loss(inputs, torch.tensor([0, -1, 2, -2]), scores=scores).backward()
    assert inputs.grad is not None
    assert scores.grad is None


@pytest.mark.parametrize("loss", SIGMOIDS[:2], ids=lambda loss: type(loss).__name__)
def test_a_normalizer_of_several_numbers_is_refused(loss: ClassificationLoss) -> None:
    with pytest.raises(ValueError, match=r"normalizer must be a single number, got one of shape \(4,\)"):
        loss(torch.randn(4, CLASSES), torch.tensor([0, -1, 2, -2]), normalizer=torch.ones(4))


@pytest.mark.parametrize("loss", SIGMOIDS + SOFTMAXES, ids=lambda loss: type(loss).__name__)
def test_inputs_are_rows_of_floats(loss: ClassificationLoss) -> None:
    columns = CLASSES + (loss in SOFTMAXES)
    with pytest.raises(TypeError, match=rf"inputs must be floating point .* torch\.int64 of shape \(4, {columns}\)"):
        loss(torch.zeros(4, columns, dtype=torch.int64), torch.tensor([0, -1, 2, -2]))
    with pytest.raises((TypeError, ValueError), match=r"inputs must .*, got .*shape \(\)"):
        loss(torch.tensor(1.0), torch.tensor(0))


@pytest.mark.parametrize("loss", SIGMOIDS + SOFTMAXES, ids=lambda loss: type(loss).__name__)
def test_one_score_per_label(loss: ClassificationLoss) -> None:
    inputs = torch.randn(4, CLASSES + (loss in SOFTMAXES))
    with pytest.raises(ValueError, match=r"scores must have the labels' shape \(4,\), got \(1,\)"):
        loss(inputs, torch.tensor([0, -1, 2, -2]), scores=torch.ones(1))
    with pytest.raises(ValueError, match="scores go with labels"):
        loss(inputs, torch.rand_like(inputs), scores=torch.ones(4))
