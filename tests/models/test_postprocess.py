import torch

from boxwright.boxes import DeltaCoder, PointGenerator
from boxwright.models import Postprocess
from boxwright.structures import Predictions


def test_the_quality_branch_ranks_detections():
    """Of two equal class scores the box of better quality comes first; a bad one falls below the threshold."""
    priors = PointGenerator((32,))([(1, 4)])
    logits = torch.tensor([2.0, 2.0, -1.0, 2.0]).view(1, 4, 1)
    quality = torch.tensor([-1.0, 3.0, 3.0, -9.0]).view(1, 4, 1)
    predictions = Predictions(logits, torch.zeros(1, 4, 4), {"quality": quality})
    (found,) = Postprocess()(predictions, priors, DeltaCoder(), torch.tensor([[32, 128]]))
    expected = (logits.sigmoid() * quality.sigmoid()).flatten()
    torch.testing.assert_close(found["scores"], expected[[1, 2, 0]])
    torch.testing.assert_close(found["boxes"], priors.boxes[[1, 2, 0]])
