import pytest
import torch

from boxwright.boxes import AnchorGenerator
from boxwright.models.heads import RetinaHead, SSDHead, WithBackground


@pytest.mark.parametrize("separable", [False, True])
def test_every_prior_is_predicted_by_its_cell_and_anchor(separable):
    """Mark the outputs of one anchor of one level and look where they come out."""
    head = SSDHead([4, 6], num_classes=3, priors_per_cell=(2, 3), separable=separable).eval()
    features = [torch.rand(2, 4, 5, 7), torch.rand(2, 6, 3, 4)]
    shapes = [[(8.0, 8)] * 2, [(16.0, 16)] * 3]
    levels = AnchorGenerator((8.0, 16.0), shapes)([feature.shape[-2:] for feature in features]).levels
    before = head(features)
    assert before.logits.shape == (2, sum(level.size for level in levels), 3)
    assert before.params.shape == (2, sum(level.size for level in levels), 4)
    with torch.no_grad():
        head.class_logits[1][-1].bias[2 * 3 + 1] += 1  # anchor 2, class 1
        head.box_params[0][-1].bias[4 + 3] += 1  # anchor 1, height
    after = head(features)
    logits = (after.logits - before.logits).mean(0)
    params = (after.params - before.params).mean(0)
    fine = levels[0].size
    torch.testing.assert_close(logits[fine + 2 :: 3, 1], torch.ones(12))
    torch.testing.assert_close(params[1:fine:2, 3], torch.ones(35))
    torch.testing.assert_close(logits.sum(), torch.tensor(12.0))
    torch.testing.assert_close(params.sum(), torch.tensor(35.0))


def test_the_start_is_unbiased_as_published_or_at_a_given_score():
    features = [torch.zeros(1, 4, 2, 2)]
    even = WithBackground(SSDHead([4], 4, [2]), 3, None)(features)
    torch.testing.assert_close(even.scores(), torch.full((1, 8, 3), 0.25))
    sigmoid = SSDHead([4], 3, [2], prior_probability=0.01)(features)
    torch.testing.assert_close(sigmoid.scores(), torch.full((1, 8, 3), 0.01))


def test_a_head_that_levels_share_refuses_levels_of_other_channels():
    with pytest.raises(ValueError, match=r"equally many channels, got \[4, 6\]"):
        RetinaHead([4, 6], 3, 2)


def test_behind_a_norm_the_start_is_narrow():
    """Parameters of 1 move a box by a tenth of its side: those of the first step must not."""
    head = SSDHead([64], 3, [4], separable=True)
    assert head([torch.randn(2, 64, 8, 8)]).params.std() < 0.3
