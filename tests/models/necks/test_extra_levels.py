import itertools

import pytest
import torch
from torch import nn

from boxwright.models.necks import ExtraLevels


def _published():
    return ExtraLevels([8, 12], [16, 12, 12, 12], first_scale=20.0, fc_channels=24)


def test_the_levels_of_a_300_px_image():
    neck, features = _published(), [torch.rand(2, 8, 38, 38), torch.rand(2, 12, 19, 19)]
    levels = neck(features)
    assert [level.shape[-1] for level in levels] == [38, 19, 10, 5, 3, 1]
    assert [level.shape[1] for level in levels] == neck.channels == [8, 24, 16, 12, 12, 12]
    sum(level.square().sum() for level in levels).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in neck.parameters())


def test_every_cell_of_the_first_level_has_the_same_length():
    feature = 100 * torch.randn(1, 8, 5, 5)
    feature[..., 0, 0] = 0
    level = _published()([feature, torch.rand(1, 12, 3, 3)])[0]
    expected = 20 * feature / feature.square().sum(1, keepdim=True).sqrt().clamp(min=1e-10)
    torch.testing.assert_close(level, expected)


def test_half_precision_does_not_overflow_in_the_length():
    feature = torch.full((1, 8, 2, 2), 30_000.0, dtype=torch.float16)
    level = _published().first(feature)
    torch.testing.assert_close(level, torch.full_like(level, 20 / 8**0.5), rtol=1e-3, atol=0)


def test_the_dilated_convolution_sees_thirteen_cells_of_a_pooled_map():
    neck, feature = _published(), torch.rand(1, 12, 31, 31, requires_grad=True)
    neck([torch.rand(1, 8, 62, 62), feature])[1][0, :, 15, 15].sum().backward()
    seen = feature.grad.abs().sum((0, 1)).nonzero()
    # 3 taps 6 apart, each the maximum of 3 cells
    assert 12 <= (seen.amax(0) - seen.amin(0)).max() <= 14


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
def test_maps_that_run_out_of_cells(size):
    neck = ExtraLevels([4], [8, 8, 8], unpadded=2, norm="bn").eval()
    sizes = [level.shape[-2:] for level in neck([torch.rand(1, 4, size, 2 * size)])]
    for (before, width), (after, other) in itertools.pairwise(sizes[1:]):
        assert (after, other) == (max(before - 2, 1), max(width - 2, 1))


def test_norms_only_where_asked_for():
    kinds = {type(layer) for layer in ExtraLevels([4], [8, 8], norm="bn").modules()}
    assert nn.BatchNorm2d in kinds
    assert nn.BatchNorm2d not in {type(layer) for layer in _published().modules()}


def test_more_unpadded_levels_than_there_are():
    with pytest.raises(ValueError, match="unpadded must be 0 to 1, the number of further levels, got 2"):
        ExtraLevels([4], [8], unpadded=2)
