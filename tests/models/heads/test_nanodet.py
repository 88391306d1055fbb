import pytest
import torch

from boxwright.models.heads import NanoDetHead


def _features():
    torch.manual_seed(0)
    return [torch.randn(2, 8, 4, 6), torch.randn(2, 8, 2, 3)]


def test_classes_and_boxes_come_from_one_branch():
    head = NanoDetHead([8, 8], num_classes=3, channels=16, reg_max=5)
    predictions = head(_features())
    assert predictions.logits.shape == (2, 30, 3)
    assert predictions.params.shape == (2, 30, 4 * 6)
    assert predictions.extras == {}
    assert 0.003 < predictions.logits.sigmoid().mean() < 0.03
    predictions.logits.sum().backward()
    assert all(parameter.grad is not None for parameter in head.towers.parameters())


def test_one_prior_per_cell():
    with pytest.raises(ValueError, match="priors_per_cell=2"):
        NanoDetHead([8], 3, 2)
