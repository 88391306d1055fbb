"""The code of the documentation runs, and the assigner that it adds is what it says."""

import pytest
import torch

import boxwright.assigners
from boxwright.assigners import ATSSAssigner
from boxwright.boxes import DeltaCoder, box_iou
from boxwright.criteria import DenseCriterion, set_epoch
from boxwright.losses import GIoULoss, SigmoidFocalLoss
from boxwright.structures import Assignment, Predictions, Priors, Targets
from boxwright.testing import check_assigner
from pages import DOCS, run_page


def nearest(priors: Priors, targets: Targets, predictions: Predictions) -> Assignment:
    """The rule of the page, object by object; crowd is left to `check_assigner`'s other trials."""
    index = torch.full((len(targets), len(priors)), -1)
    for image, answer in enumerate(index):
        best = torch.full((len(priors),), 0.2)
        for number, box in enumerate(targets.boxes[image]):
            if not targets.objects[image, number]:
                continue
            overlap, start = box_iou(box[None], priors.boxes)[0], 0
            away = (priors.centers - (box[:2] + box[2:]) / 2).square().sum(1)
            for level in priors.levels:
                for prior in (start + away[start : start + level.size].sort(stable=True).indices[:3]).tolist():
                    if overlap[prior] > best[prior]:
                        best[prior], answer[prior] = overlap[prior], number
                start += level.size
    return Assignment(index, (index >= 0).float())


def test_the_added_assigner_is_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_reference(assigner, **options):
        for seed in range(6):
            scene = boxwright.testing.random_scene(seed, hostile=False, crowd=False)
            assert torch.equal(assigner(*scene).gt_index, nearest(*scene).gt_index)
        check_assigner(assigner, **options, scenes=4)

    monkeypatch.setattr("boxwright.testing.check_assigner", with_reference)
    page = run_page("add-an-assigner.md")
    assert page["NearestAssigner"]().topk == 3
    shrinking = page["ShrinkingAssigner"]()
    check_assigner(shrinking, scenes=4)
    set_epoch(DenseCriterion(shrinking, SigmoidFocalLoss(), GIoULoss(), DeltaCoder()), 5)
    assert shrinking.rule == ATSSAssigner(topk=10)


def test_the_examples_run_and_every_assigner_and_sampler_has_a_row() -> None:
    found = run_page("assigners.md")
    again = ATSSAssigner()(found["same"], found["targets"])
    assert torch.equal(again.gt_index, found["assignment"].gt_index)
    assert again.positive.any()
    page = (DOCS / "assigners.md").read_text()
    names = [name for name in boxwright.assigners.__all__ if name.endswith(("Assigner", "Sampler"))]
    assert [name for name in names if f"`{name}`" not in page] == ["LossSampler"]  # a protocol
