"""The criterion of the documentation charges what it says, in a loop and in a recipe."""

from dataclasses import replace

import pytest
import torch

from boxwright.assigners import MaxIoUAssigner
from boxwright.boxes import DeltaCoder
from boxwright.criteria import DenseCriterion
from boxwright.losses import GIoULoss, SigmoidFocalLoss
from boxwright.testing import check_never_waits
from boxwright.testing.scenes import fitted_scene
from pages import run_page


@pytest.fixture(scope="module")
def added():
    return run_page("add-a-criterion.md")["DoubtCriterion"]


def made(kind, **options):
    return kind(MaxIoUAssigner(), SigmoidFocalLoss(), GIoULoss(), DeltaCoder(), **options)


def test_it_adds_its_term_and_leaves_the_others(added):
    scene = fitted_scene(0)
    plain, more = (
        made(*kind, **options)(scene.predictions, scene.priors, scene.targets)
        for *kind, options in ((DenseCriterion, {}), (added, {"doubt": 0.2}))
    )
    p = scene.predictions.logits.sigmoid()[MaxIoUAssigner()(scene.priors, scene.targets).positive]
    torch.testing.assert_close(more.pop("doubt"), 0.2 * (p * (1 - p)).sum() / len(p))
    assert all(torch.equal(more[name], plain[name]) for name in plain)


def test_it_waits_for_nothing_and_has_a_gradient_without_objects(added):
    scene = fitted_scene(0)
    check_never_waits(made(added), scene.predictions, scene.priors, scene.targets)
    logits = scene.predictions.logits.clone().requires_grad_()
    nothing = replace(scene.targets, valid=torch.zeros_like(scene.targets.valid))
    doubt = made(added)(replace(scene.predictions, logits=logits), scene.priors, nothing)["doubt"]
    assert doubt == 0
    doubt.backward()
    assert not logits.grad.any()
