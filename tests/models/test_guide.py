"""The guide of NanoDet-Plus: there in training, gone in evaluation, later without a hold on the rest."""

import pytest
import torch

from boxwright.errors import RecipeError
from boxwright.models import Guide
from boxwright.recipes import build_detector, load_recipe
from boxwright.structures import Targets

GUIDED = ("guide_logits", "guide_params")


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return build_detector(load_recipe("nanodet-plus-tiny", ["data.size=64"]), ["cat", "dog"])


def _of_the_guide(detector, epoch):
    """Gradients, by name, of what the guide alone is charged."""
    detector.train().guide.set_epoch(epoch)
    predictions, _ = detector.predict(torch.rand(2, 3, 64, 64))
    detector.zero_grad()
    sum(predictions.extras[name].square().sum() for name in GUIDED).backward()
    return {name: parameter.grad for name, parameter in detector.named_parameters()}


def test_it_exists_in_training_only_and_changes_nothing_else(detector):
    images = torch.rand(2, 3, 64, 64)
    assert detector.train().predict(images)[0].extras.keys() == set(GUIDED)
    guided = detector.eval().predict(images)[0]
    assert guided.extras == {}
    guide, detector.guide = detector.guide, None
    torch.testing.assert_close(detector.predict(images)[0].logits, guided.logits)
    detector.guide = guide


def test_it_moves_the_detector_until_it_is_detached(detector):
    gradients = _of_the_guide(detector, 9)
    for name, gradient in gradients.items():
        assert (gradient is None) == name.startswith("head."), name
    gradients = _of_the_guide(detector, 10)
    for name, gradient in gradients.items():
        assert (gradient is None) == (not name.startswith("guide.")), name


def test_its_neck_starts_as_a_copy_and_learns_by_itself():
    neck = torch.nn.Conv2d(3, 4, 1)
    guide = Guide(neck, torch.nn.Identity())
    assert guide.neck is not neck
    torch.testing.assert_close(guide.neck.weight, neck.weight)


def test_classes_learn_the_overlap_of_the_guide_divided_by_the_positives(detector):
    """As published; TOOD's soft targets are summed instead."""
    images = torch.rand(2, 3, 64, 64)
    targets = Targets.from_list(2 * [{"boxes": torch.tensor([[8.0, 8, 40, 48]]), "labels": torch.tensor([1])}])
    predictions, priors = detector.train().predict(images)
    criterion = detector.criterion
    seen = {}

    def assign(*arguments):
        seen["assignment"] = assigner(*arguments)
        return seen["assignment"]

    assigner, criterion.assigner = criterion.assigner, assign
    losses = criterion(predictions, priors, targets)
    criterion.assigner = assigner
    assignment = seen["assignment"]
    assert criterion.positives == assignment.positive.sum() > assignment.score.sum()
    expected = criterion.classification.function(
        predictions.logits, assignment.labels(targets), scores=assignment.score, reduction="sum"
    )
    torch.testing.assert_close(losses["classification"], expected / assignment.positive.sum())


def test_a_guide_that_does_not_fit_the_coder_is_refused():
    with pytest.raises(RecipeError, match=r"detector\.coder\.reg_max is 7 but detector\.guide\.head\.reg_max is 16"):
        build_detector(load_recipe("nanodet-plus-tiny", ["detector.guide.head.reg_max=16"]), ["a"])
