"""Cross-entropy against torch's own."""

import pytest
import torch
import torch.nn.functional as F

from boxwright.losses import sigmoid_cross_entropy, softmax_cross_entropy

LABELS = torch.tensor([0, 2, 1, -1, -2, 0])


def test_softmax_against_torch() -> None:
    logits, scores = torch.randn(6, 4, dtype=torch.float64), torch.rand(6, dtype=torch.float64)
    for background, columns in (("last", [0, 2, 1, 3, -100, 0]), ("first", [1, 3, 2, 0, -100, 1])):
        for smoothing in (0.0, 0.2):
            expected = F.cross_entropy(
                logits, torch.tensor(columns), reduction="none", ignore_index=-100, label_smoothing=smoothing
            )
            options = {"background": background, "label_smoothing": smoothing}
            torch.testing.assert_close(softmax_cross_entropy(logits, LABELS, **options), expected)
            mean = softmax_cross_entropy(logits, LABELS, **options, reduction="mean")
            torch.testing.assert_close(mean, expected.sum() / 5)
            scored = softmax_cross_entropy(logits, LABELS, **options, scores=scores)
            torch.testing.assert_close(scored, expected * torch.where(LABELS >= 0, scores, 1))
    for smoothing in (0.0, 0.2, 1.0):
        none = softmax_cross_entropy(logits, LABELS, background="none", label_smoothing=smoothing)
        expected = F.cross_entropy(logits, LABELS.clamp(min=0), reduction="none", label_smoothing=smoothing)
        torch.testing.assert_close(none, expected * (LABELS >= 0))


def test_softmax_with_a_dense_distribution_against_torch() -> None:
    logits, share = torch.randn(6, 4), torch.rand(6, 4).softmax(-1)
    expected = F.cross_entropy(logits, share, reduction="none", label_smoothing=0.1)
    torch.testing.assert_close(softmax_cross_entropy(logits, share, label_smoothing=0.1), expected)


def test_sigmoid_against_torch() -> None:
    logits = torch.randn(6, 3)
    target = F.one_hot(LABELS.clamp(min=0), 3) * (LABELS >= 0).float().unsqueeze(1)
    plain = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    plain[4] = 0
    torch.testing.assert_close(sigmoid_cross_entropy(logits, LABELS), plain)
    torch.testing.assert_close(sigmoid_cross_entropy(logits, LABELS, reduction="mean"), plain.sum() / 15)
    torch.testing.assert_close(sigmoid_cross_entropy(logits, LABELS, reduction="image"), plain.sum(1))
    smooth = F.binary_cross_entropy_with_logits(logits, target * 0.9 + 0.05, reduction="none")
    smooth[4] = 0
    torch.testing.assert_close(sigmoid_cross_entropy(logits, LABELS, label_smoothing=0.1), smooth)


@pytest.mark.parametrize(
    ("targets", "options", "error", "message"),
    [
        (torch.zeros(6, 3, dtype=torch.int64), {}, TypeError, r"got torch.int64 of shape \(6, 3\)"),
        (torch.zeros(5, dtype=torch.int64), {}, ValueError, r"shape \(6,\) .*of shape \(5,\)"),
        (torch.zeros(6, 2), {}, ValueError, r"\(6, 3\) and \(6, 2\)"),
        (LABELS, {"scores": torch.ones(5)}, ValueError, r"labels' shape \(6,\), got \(5,\)"),
        (torch.zeros(6, 3), {"scores": torch.ones(6)}, ValueError, "scores go with labels"),
        (LABELS, {"weight": torch.ones(4)}, ValueError, r"weight has shape \(4,\)"),
    ],
)
def test_wrong_shapes_and_dtypes_are_named(
    targets: torch.Tensor, options: dict[str, torch.Tensor], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        sigmoid_cross_entropy(torch.zeros(6, 3), targets, **options)
    with pytest.raises(TypeError, match="floating point"):
        sigmoid_cross_entropy(torch.zeros(6, 3, dtype=torch.int64), LABELS)
