import torch

from boxwright.boxes import DeltaCoder, PointGenerator
from boxwright.models import Postprocess
from boxwright.structures import Predictions


def test_the_quality_branch_ranks_detections_that_the_class_alone_lets_in():
    """Of two equal class scores the box of better quality comes first; bad quality ranks last, a bad class is out."""
    priors = PointGenerator((32,))([(1, 5)])
    logits = torch.tensor([2.0, 2.0, -1.0, 2.0, -4.0]).view(1, 5, 1)
    quality = torch.tensor([-1.0, 3.0, 3.0, -5.0, 9.0]).view(1, 5, 1)
    predictions = Predictions(logits, torch.zeros(1, 5, 4), {"quality": quality})
    (found,) = Postprocess()(predictions, priors, DeltaCoder(), torch.tensor([[32, 160]]))
    expected = (logits.sigmoid() * quality.sigmoid()).flatten()
    torch.testing.assert_close(found["scores"], expected[[1, 2, 0, 3]])
    torch.testing.assert_close(found["boxes"], priors.boxes[[1, 2, 0, 3]])
