"""The code of the documentation runs, and the loss that it adds is sound."""

import pytest
import torch

import boxwright.losses
from boxwright.assigners import MaxIoUAssigner
from boxwright.boxes import DeltaCoder
from boxwright.criteria import DenseCriterion
from boxwright.losses import ClassificationLoss
from boxwright.testing import check_criterion
from boxwright.testing.scenes import fitted_scene
from pages import DOCS, run_page


def test_the_added_loss_is_short_and_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    # compiling takes most of a minute on a slow machine; the compiled check has tests of its own
    monkeypatch.setattr(
        "boxwright.testing.check_criterion", lambda *loss, **options: check_criterion(*loss, **options, compile=False)
    )
    page = run_page("add-a-loss.md")
    assert issubclass(page["AsymmetricLoss"], ClassificationLoss)
    pair = torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[0.0, 0.0, 2.0, 1.0]])
    assert page["AlphaIoULoss"](2.0)(*pair) == 1 - 0.5**2
    scene = fitted_scene(0)
    criterion = DenseCriterion(MaxIoUAssigner(), page["AdaptiveThresholdLoss"](), page["AlphaIoULoss"](), DeltaCoder())
    losses = criterion(scene.predictions, scene.priors, scene.targets)
    assert all(loss > 0 for loss in losses.values())


def test_the_example_of_a_ranking_runs() -> None:
    assert run_page("ranking.md")["logits"].grad.any()


def test_every_loss_has_a_row() -> None:
    page = (DOCS / "losses.md").read_text()
    run_page("losses.md")
    names = [name for name in boxwright.losses.__all__ if name.endswith(("_loss", "_entropy"))]
    missing = [name for name in names if f"| `{name}`" not in page]
    assert not missing
