"""Wise-IoU's running mean that counts weighted boxes, is saved, and moves in training only."""

import torch

from boxwright.boxes import aligned_iou
from boxwright.losses import WiseIoULoss, wise_iou_loss

PRED = torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 5.0, 9.0, 9.0], [0.0, 0.0, 1.0, 1.0]])
TARGET = torch.tensor([[1.0, 0.0, 11.0, 12.0], [4.0, 5.0, 9.0, 8.0], [50.0, 50.0, 60.0, 60.0]])


def test_the_mean_counts_boxes_with_a_weight_and_survives_saving() -> None:
    module = WiseIoULoss(momentum=0.5)
    module(PRED, TARGET, weight=torch.tensor([1.0, 0.5, 0.0]))
    expected = 0.5 + 0.5 * (1 - aligned_iou(PRED, TARGET))[:2].mean()
    torch.testing.assert_close(module.mean, expected)
    module(TARGET[:1], TARGET[:1])  # a single box, and a perfect one
    expected = expected / 2
    torch.testing.assert_close(module.mean, expected)
    other = WiseIoULoss()
    other.load_state_dict(module.state_dict())
    torch.testing.assert_close(other.mean, expected)


def test_the_module_judges_by_its_mean() -> None:
    options = {"alpha": 1.5, "delta": 2.0, "eps": 1e-3}
    module = WiseIoULoss(**options, reduction="none").eval()
    for mean in (0.4, 0.0):
        module.mean.fill_(mean)
        value = module(PRED, TARGET)
        torch.testing.assert_close(value, wise_iou_loss(PRED, TARGET, mean=mean, **options))
        assert value.isfinite().all()


def test_the_mean_rests_in_evaluation_and_without_boxes() -> None:
    module = WiseIoULoss().eval()
    module(PRED, TARGET)
    module.train()
    module(PRED, TARGET, weight=torch.zeros(3))
    module(torch.zeros(0, 4), torch.zeros(0, 4))
    assert module.mean.item() == 1
