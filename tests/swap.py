"""Every part that a recipe can name, tried in every dense system on a synthetic scene."""

from dataclasses import replace
from functools import cache

import torch

from assignment_scenes import CLASSES, make_priors, make_targets
from boxwright.criteria import PhasedCriterion
from boxwright.errors import RecipeError
from boxwright.recipes import build_criterion, load_recipe, schema
from boxwright.recipes.compatibility import is_softmax
from boxwright.structures import Predictions

SYSTEMS = ("retinanet-tiny", "atss-tiny", "gfl-tiny", "nanodet-tiny", "tood-tiny", "ssd-tiny")
PARTS = {"assigner": schema.Assigner, "classification": schema.Classification, "box": schema.Box}


def types(kind):
    """Names of the parts of a kind."""
    return sorted(model.model_fields["type"].annotation.__args__[0] for model in PARTS[kind].__metadata__[0].models)


def swapped(system, **parts):
    """Return a system's recipe with other parts."""
    overrides = [f"criterion.{kind}.type={name}" for kind, name in parts.items()]
    if parts.get("classification") in ("seesaw", "equalized-v2"):
        overrides.append(f"criterion.classification.num_classes={CLASSES}")
    return load_recipe(system, overrides)


@cache
def scene(per_cell, coder):
    """Return priors, targets and predictions of two images with six objects and two crowds, boxes near the priors."""
    priors = make_priors(per_cell)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, len(priors), CLASSES, generator=generator)
    noise = torch.randn(2, len(priors), 4, generator=generator) * priors.strides[:, None] / 4
    if hasattr(coder, "reg_max"):  # any distribution means a box around its prior
        params = 0.3 * torch.randn(2, len(priors), 4 * (coder.reg_max + 1), generator=generator)
    else:
        params = coder.encode(priors, priors.boxes + noise)
    extras = {name: torch.randn(2, len(priors), 1, generator=generator) for name in ("quality", "background")}
    return priors, make_targets(4, 2, 5, hostile=False, crowd=True), (logits, params, extras)


def problem(recipe):
    """Return a criterion and what it is called with: priors, targets, and logits, parameters and extras of a head."""
    criterion = build_criterion(recipe)
    if isinstance(criterion, PhasedCriterion):
        criterion.set_epoch(criterion.epochs)
    per_cell = 3 if recipe.detector.priors.type == "octave-anchors" else 1
    priors, targets, (*outputs, extras) = scene(per_cell, recipe.detector.coder.build())
    if not is_softmax(recipe.criterion):
        extras = {"quality": extras["quality"]}
    return criterion, priors, targets, Predictions(*outputs, extras)


def step(recipe):
    """Run one step; return its losses, and the gradients of logits and parameters."""
    criterion, priors, targets, predictions = problem(recipe)
    logits, params = (output.clone().requires_grad_() for output in (predictions.logits, predictions.params))
    losses = criterion(replace(predictions, logits=logits, params=params), priors, targets)
    sum(losses.values()).backward()
    return losses, (logits.grad, params.grad)


def check_step(recipe, what):
    """Run one step, which must be finite and move classes and boxes."""
    losses, gradients = step(recipe)
    assert all(torch.isfinite(loss) for loss in losses.values()), (what, losses)
    assert all(gradient is not None and gradient.isfinite().all() and gradient.any() for gradient in gradients), what


def verdict(system, **parts):
    """Return why a system refuses parts, or "" where a step with them works."""
    try:
        check_step(swapped(system, **parts), (system, parts))
    except RecipeError as error:
        return str(error).removeprefix(f"recipe {system}: ")
    return ""
