import torch
from torch.testing import assert_close

from boxwright.boxes import AnchorGenerator, DeltaCoder
from boxwright.models import ProposalFilter
from boxwright.structures import Predictions

ANCHORS = AnchorGenerator((16.0, 32.0), (((16.0, 16.0),), ((32.0, 32.0),)))


def _scene(logits):
    """Anchors of a 4 × 4 and a 2 × 2 level over 64 px, undisturbed, with the scores of one image."""
    priors = ANCHORS([(4, 4), (2, 2)])
    return Predictions(logits.view(1, -1, 1), torch.zeros(1, len(priors), 4)), priors


def _filtered(logits, sizes=(64, 64), training=False, **options):
    return ProposalFilter(**options)(*_scene(logits), DeltaCoder(), torch.tensor([sizes]), training=training)


def test_best_first_and_clipped_to_the_image():
    found = _filtered(torch.arange(20.0) / 10, sizes=(60, 64))
    assert found.count.tolist() == [20]
    assert_close(found.boxes[0, :2], torch.tensor([[32.0, 32, 64, 60], [0, 32, 32, 60]]))
    assert (found.scores[0, :20].diff() <= 0).all()
    assert found.boxes.shape == (1, 1000, 4)
    assert not found.boxes[0, 20:].any()


def test_counts_differ_between_training_and_inference():
    counts = {"train_pre_nms": 5, "train_post_nms": 7, "pre_nms": 3, "post_nms": 4}
    logits = torch.arange(20.0) / 10
    assert _filtered(logits, training=True, **counts).count.tolist() == [7]  # of 5 and 4 on the two levels
    found = _filtered(logits, **counts)
    assert found.count.tolist() == [4]  # of 3 and 3
    assert found.boxes.shape[1] == 4


def test_suppression_within_a_level_only():
    priors = AnchorGenerator((16.0, 16.0), (((16.0, 16.0), (17.0, 17.0)), ((16.0, 16.0),)))([(1, 1), (1, 1)])
    predictions = Predictions(torch.tensor([[[2.0], [1.0], [0.0]]]), torch.zeros(1, 3, 4))
    found = ProposalFilter()(predictions, priors, DeltaCoder(), torch.tensor([[16, 16]]))
    assert found.count.tolist() == [2]
    assert_close(found.scores[0, :2], torch.tensor([2.0, 0.0]).sigmoid())


def test_small_and_outside_ones_go():
    assert _filtered(torch.zeros(20), min_size=20).count.tolist() == [4]
    assert _filtered(torch.zeros(20), sizes=(64, 32)).count.tolist() == [10]  # what lies right of 32 has no area
    assert _filtered(torch.zeros(20), min_size=100).count.tolist() == [0]
