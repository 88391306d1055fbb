"""Every part that a stage of Faster R-CNN can name: it trains, or is refused with a reason."""

import pytest
import torch

from boxwright.assigners import with_objects
from boxwright.boxes import DeltaCoder
from boxwright.errors import RecipeError
from boxwright.models.rcnn.proposals import as_priors
from boxwright.recipes import build_criterion, load_recipe
from boxwright.structures import Predictions
from swap import CLASSES, PARTS, scene, types

REFUSED = {
    ("rpn", "assigner"): {"dual", "proposal"},
    ("rpn", "classification"): {"alrp", "ap", "rank-sort"},
    ("rpn", "box"): {"gaussian"},
    ("roi", "classification"): {"alrp", "ap", "rank-sort"},
    ("roi", "box"): {"gaussian"},
    ("roi", "assigner"): {*types("assigner")} - {"proposal", "max-iou"},
}


def step(stage, kind, name):
    """Run one step of a stage with another part; return its losses, and the gradients of logits and parameters."""
    overrides = [f"criterion.{stage}.{kind}.type={name}"]
    if name in ("seesaw", "equalized-v2"):
        overrides.append(f"criterion.{stage}.classification.num_classes={1 if stage == 'rpn' else CLASSES}")
    recipe = load_recipe("faster-rcnn-tiny", overrides)
    criterion = build_criterion(recipe)
    priors, targets, (logits, params, extras) = scene(2, DeltaCoder())
    softmax = hasattr(getattr(recipe.criterion, stage).classification, "background")
    extras = {"background": extras["background"]} if softmax else {}
    if stage == "rpn":
        leaves = [logits[..., :1].clone().requires_grad_(), params.clone().requires_grad_()]
        losses = criterion.first(Predictions(*leaves, extras), priors, targets)
    else:
        proposals = with_objects(as_priors(priors.boxes.expand(2, -1, 4)), targets)
        regions, assignment = criterion.roi.pick(proposals, targets)
        shape = (2, len(regions))
        leaves = [
            torch.randn(*shape, CLASSES).requires_grad_(),
            (0.3 * torch.randn(*shape, 4 * CLASSES)).requires_grad_(),
        ]
        extras = {key: torch.randn(*shape, 1) for key in extras}
        losses = criterion.second(Predictions(*leaves, extras), regions, targets, assignment)
    sum(losses.values()).backward()
    return losses, [leaf.grad for leaf in leaves]


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize("stage", ["rpn", "roi"])
def test_every_part_trains_or_is_refused(stage, kind):
    refused = {}
    for name in types(kind):
        torch.manual_seed(0)
        try:
            losses, gradients = step(stage, kind, name)
        except RecipeError as error:
            refused[name] = str(error)
            continue
        assert all(loss.isfinite() for loss in losses.values()), name
        assert all(gradient.isfinite().all() for gradient in gradients), name
        assert all(gradient.any() for gradient in gradients), name
    assert refused.keys() == REFUSED[stage, kind]
    assert all(f"criterion.{stage}.{kind}: {name} " in reason for name, reason in refused.items())
