import torch
from torch import nn

from boxwright.assigners import ATSSAssigner, MaxIoUAssigner
from boxwright.boxes import AnchorGenerator, DeltaCoder
from boxwright.criteria import DenseCriterion, PhasedCriterion
from boxwright.losses import GIoULoss, QualityFocalLoss, SigmoidFocalLoss
from boxwright.structures import Predictions, Targets


def _phased():
    first = DenseCriterion(ATSSAssigner(), SigmoidFocalLoss(), GIoULoss(), DeltaCoder(), weigh_boxes="quality")
    then = DenseCriterion(MaxIoUAssigner(), QualityFocalLoss(), GIoULoss(), DeltaCoder(), soft_target="iou")
    return PhasedCriterion(first, then, epochs=2)


def _batch():
    torch.manual_seed(0)
    priors = AnchorGenerator.square((8, 16), scale=2, offset=0.5)([(4, 4), (2, 2)])
    predictions = Predictions(torch.randn(1, len(priors), 3), torch.randn(1, len(priors), 4))
    targets = Targets.from_list([{"boxes": torch.tensor([[2.0, 2, 20, 22]]), "labels": torch.tensor([1])}])
    return predictions, priors, targets


def test_the_first_epochs_have_their_own_criterion():
    phased, batch = _phased(), _batch()
    assert phased.current is phased.first
    for epoch, part in [(0, phased.first), (1, phased.first), (2, phased.then), (9, phased.then), (1, phased.first)]:
        phased.set_epoch(epoch)
        torch.testing.assert_close(phased(*batch), part(*batch))
        assert phased.normalizer is part.normalizer
        assert phased.positives is part.positives
    assert not torch.equal(phased.first(*batch)["classification"], phased.then(*batch)["classification"])
    assert phased.coder is phased.then.coder


def test_the_parts_are_registered_once():
    phased = _phased()
    assert [name for name, _ in phased.named_children()] == ["first", "then"]
    assert isinstance(phased, nn.Module)


def test_a_compiled_criterion_follows_the_epochs():
    phased, batch = _phased(), _batch()
    compiled = torch.compile(phased, fullgraph=True, backend="eager")
    for epoch in range(4):
        phased.set_epoch(epoch)
        torch.testing.assert_close(compiled(*batch), phased.current(*batch))
