"""What is said of an assigner or a loss of anybody's that answers something else than it must."""

import pytest
import torch

from boxwright.assigners import MaxIoUAssigner
from boxwright.boxes import DeltaCoder
from boxwright.criteria import ALRPCriterion, DenseCriterion, StageCriterion
from boxwright.errors import PartError
from boxwright.losses import ALRPLoss, GIoULoss, SigmoidFocalLoss
from boxwright.structures import Assignment
from boxwright.testing.scenes import fitted_scene

SCENE = fitted_scene(0)
IMAGES, PRIORS = SCENE.predictions.logits.shape[:2]


def criterion(change, kind=DenseCriterion, classification=None):
    """Return a criterion whose assigner's answer is changed."""

    def assigner(priors, targets, predictions=None):
        return change(MaxIoUAssigner()(priors, targets))

    return kind(assigner, classification or SigmoidFocalLoss(), GIoULoss(), DeltaCoder())


def call(criterion, checks=False):
    criterion.checks_matches = checks
    return criterion(SCENE.predictions, SCENE.priors, SCENE.targets)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: None, r"assigner must return an Assignment\(gt_index, score\), got NoneType"),
        (lambda a: (a.gt_index, a.score), "got tuple"),
        (lambda a: Assignment(a.gt_index[:, 1:], a.score), rf"gt_index \({IMAGES}, {PRIORS}\) in torch\.int64, got \("),
        (lambda a: Assignment(a.gt_index.float(), a.score), r"in torch\.int64, got \(\d+, \d+\) in torch\.float32"),
        (lambda a: Assignment(a.gt_index, a.score.long()), r"score \(.* in torch\.float32, got .* in torch\.int64"),
        (lambda a: Assignment(a.gt_index, None), "score .* got NoneType"),
    ],
)
@pytest.mark.parametrize("kind", [DenseCriterion, StageCriterion, ALRPCriterion])
def test_the_form_of_an_answer(change, said, kind):
    classification = ALRPLoss() if kind is ALRPCriterion else None
    with pytest.raises(PartError, match=said):
        call(criterion(change, kind, classification))


def matched(value):
    return lambda a: Assignment(torch.where(a.gt_index >= 0, value, a.gt_index), a.score)


@pytest.mark.parametrize("value", [-7, SCENE.targets.boxes.shape[1], 1000])
def test_matches_with_what_is_no_object(value):
    with pytest.raises(PartError, match=rf"matched prior \d+ of image \d of the batch with {value}, which is no obj"):
        call(criterion(matched(value)), checks=True)


def test_matches_with_padding_or_crowd():
    image, entry = (~SCENE.targets.objects).nonzero()[0].tolist()
    only = torch.zeros(IMAGES, PRIORS, dtype=torch.bool)
    only[image, 0] = True
    change = lambda a: Assignment(torch.where(only, entry, a.gt_index), a.score)  # noqa: E731
    with pytest.raises(PartError, match=rf"prior 0 of image {image} of the batch with {entry}, which is no object"):
        call(criterion(change), checks=True)


def test_nothing_is_said_of_what_is_right():
    assert torch.equal(call(criterion(lambda a: a), checks=True)["box"], call(criterion(lambda a: a))["box"])
    scene = SCENE.targets.map(lambda tensor: tensor[:, :0])
    empty = criterion(lambda a: a)
    empty.checks_matches = True
    assert empty(SCENE.predictions, SCENE.priors, scene)["box"] == 0


def test_a_loss_that_returns_nothing():
    class Silent(torch.nn.Module):
        def forward(self, *inputs, **options):
            return None

    with pytest.raises(PartError, match="the classification loss Silent must return a tensor, got None"):
        call(criterion(lambda a: a, classification=Silent()))
