"""The losses divided among the priors."""

import pytest
import torch

from boxwright.assigners import ATSSAssigner
from boxwright.recipes import Recipe, build_criterion, build_detector, load_recipe, recipe_names
from boxwright.structures import Targets
from boxwright.study.inspection.loss_shares import loss_shares, with_assigner

BOXES = torch.tensor([[8.0, 8, 72, 72], [40, 40, 120, 120]])


def scene(name):
    """A recipe's criterion, an untrained network's predictions for one image, and two objects."""
    recipe = load_recipe(name, ["data.size=128"])
    criterion = build_criterion(recipe, torch.tensor([9, 1]))
    criterion = getattr(criterion, "then", criterion)
    detector = build_detector(recipe, ["a", "b"], pretrained=False).eval()
    with torch.no_grad():
        predictions, priors = detector.predict(torch.randint(0, 256, (1, 3, 128, 128), dtype=torch.uint8))
    predictions = predictions.with_boxes(criterion.coder.decode(priors, predictions.params.float()))
    targets = Targets.from_list([{"boxes": BOXES, "labels": torch.tensor([0, 1])}])
    return criterion, predictions, priors, targets


DENSE = [name for name in recipe_names() if name.endswith("-tiny") and type(load_recipe(name)) is Recipe]


@pytest.mark.parametrize("name", DENSE)
def test_shares_sum_up_to_the_losses(name):
    criterion, predictions, priors, targets = scene(name)
    shares, terms = loss_shares(criterion, predictions, priors, targets)
    losses = criterion(predictions, priors, targets)
    assert terms == pytest.approx({name: float(loss) for name, loss in losses.items()}, rel=1e-5)
    assert shares or name.startswith(("alrp", "ap-loss", "rank-sort"))
    for term, share in shares.items():
        assert share.shape == (1, len(priors))
        assert float(share.sum()) == pytest.approx(terms[term], rel=1e-4)
        assert torch.isfinite(share).all()


def test_a_share_is_what_the_loss_says_of_that_prior_alone():
    criterion, predictions, priors, targets = scene("retinanet-tiny")
    shares, _ = loss_shares(criterion, predictions, priors, targets)
    assignment = criterion.assigner(priors, targets, None)
    positives = int(assignment.positive.sum())
    labels = assignment.labels(targets)[0]
    probability = predictions.logits[0].double().sigmoid()
    for prior in [*assignment.positive[0].nonzero()[:5, 0].tolist(), 0, 17, len(priors) - 1]:
        expected = 0.0
        for label, p in enumerate(probability[prior].tolist()):
            t = float(labels[prior] == label)
            if labels[prior] != -2:
                pt = p if t else 1 - p
                expected -= (0.25 if t else 0.75) * (1 - pt) ** 2 * float(torch.log(torch.tensor(pt).double()))
        assert float(shares["classification"][0, prior]) == pytest.approx(expected / positives, rel=1e-3, abs=1e-9)
    assert (shares["box"][0][~assignment.positive[0]] == 0).all()
    assert (shares["box"][0][assignment.positive[0]] > 0).all()


def test_the_criterion_is_left_as_it_was():
    criterion, predictions, priors, targets = scene("retinanet-ghm-tiny")
    criterion(predictions, priors, targets)
    state = {name: buffer.clone() for name, buffer in criterion.named_buffers()}
    first = loss_shares(criterion, predictions, priors, targets)
    again = loss_shares(criterion, predictions, priors, targets)
    for name, buffer in criterion.named_buffers():
        assert torch.equal(buffer, state[name]), name
    assert first[1] == again[1]
    assert criterion.classification.reduction == "mean"


def test_another_assigner_changes_who_pays_and_not_the_criterion():
    criterion, predictions, priors, targets = scene("retinanet-tiny")
    own = criterion.assigner
    changed = with_assigner(criterion, ATSSAssigner())
    shares, _ = loss_shares(changed, predictions, priors, targets)
    positive = ATSSAssigner()(priors, targets, None).positive[0]
    assert torch.equal(shares["box"][0] > 0, positive)
    assert criterion.assigner is own


def test_an_image_without_objects_has_shares():
    criterion, predictions, priors, _ = scene("gfl-tiny")
    empty = Targets.from_list([{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}])
    shares, terms = loss_shares(criterion, predictions, priors, empty)
    assert (shares["box"] == 0).all()
    assert float(shares["classification"].sum()) == pytest.approx(terms["classification"], rel=1e-4)
