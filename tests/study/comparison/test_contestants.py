"""What recipes of a comparison share is the same in all of them, to the last weight."""

import pytest
import torch

from boxwright.engine.loop import seed_everything
from boxwright.errors import RecipeError
from boxwright.recipes import build_detector
from boxwright.study.comparison.contestants import contestants, shared_weights, shortened, with_seed

TINY = ["retinanet-tiny", "gfl-tiny", "tood-tiny", "nanodet-plus-tiny"]


def start(recipe):
    seed_everything(recipe.train.seed)
    return build_detector(recipe, ["a", "b"], pretrained=False).state_dict()


def test_everything_but_criterion_and_head_is_that_of_the_first():
    entrants = contestants(["gfl-tiny", "atss-tiny", "yolov3-tiny"], ["data.size=128"])
    first = entrants[0].recipe
    for entrant in entrants[1:]:
        for section in ("data", "optimizer", "schedule", "train"):
            assert getattr(entrant.recipe, section) == getattr(first, section)
    assert entrants[0].held == entrants[0].differs == ()
    assert entrants[1].recipe.detector.backbone == first.detector.backbone
    assert "detector.head.type: gfl → atss" in entrants[1].differs
    assert entrants[2].held == ("train.clip_norm: 100.0 → 10.0",)
    assert entrants[2].recipe.criterion.type == "yolo"


def test_backbone_and_neck_start_alike_in_all_recipes_with_them():
    entrants = contestants(TINY)
    recipes = [with_seed(entrant.recipe, 5) for entrant in entrants]
    first, *others = map(start, recipes)
    for own in others[:2]:
        same = [name for name in first if name.startswith(("backbone.", "neck."))]
        assert same
        assert all(torch.equal(own[name], first[name]) for name in same)
    backbone = [name for name in first if name.startswith("backbone.")]
    assert all(torch.equal(others[2][name], first[name]) for name in backbone)
    shared = shared_weights(recipes, ["a", "b"])
    assert shared[0][0] == shared[0][1]
    assert all(0 < same < total for same, total in shared[1:])
    assert not torch.equal(start(with_seed(recipes[0], 6))[backbone[0]], first[backbone[0]])


def test_epochs_at_which_a_recipe_changes_its_ways_keep_their_share():
    entrants = contestants(TINY, ["schedule.epochs=12"])
    assert [entrant.recipe.schedule.epochs for entrant in entrants] == [12] * 4
    assert entrants[2].recipe.criterion.first.epochs == 2  # 5 of 30
    assert entrants[3].recipe.detector.guide.detach_epoch == 4  # 10 of 30
    assert {entrant.recipe.train.eval_every for entrant in entrants} == {1}
    assert (
        contestants(["tood-tiny"], ["schedule.epochs=12", "criterion.first.epochs=7"])[0].recipe.criterion.first.epochs
        == 7
    )
    short = shortened(entrants[2].recipe, 6)
    assert (short.schedule.epochs, short.criterion.first.epochs) == (6, 1)
    stairs = contestants(
        ["retinanet-tiny"], ["schedule.type=step", "schedule.epochs=30", "schedule.milestones=[20, 26]"]
    )[0].recipe
    assert [shortened(stairs, epochs).schedule.milestones for epochs in (15, 3, 2, 1)] == [(10, 13), (2,), (1,), ()]


def test_a_recipe_given_twice_has_another_name_and_other_seeds():
    entrants = contestants(["retinanet-tiny", "gfl-tiny", "retinanet-tiny"])
    assert [(entrant.name, entrant.copy) for entrant in entrants] == [
        ("retinanet-tiny", 0), ("gfl-tiny", 0), ("retinanet-tiny-2", 1),
    ]  # fmt: skip


def test_what_cannot_be_compared_is_told():
    with pytest.raises(RecipeError, match="needs recipes"):
        contestants([])
    with pytest.raises(RecipeError, match="no recipe 'retina'"):
        contestants(["retina"])


def test_files_that_build_on_one_recipe_are_called_by_their_own_names(tmp_path):
    for name, loss in {"mine": "varifocal", "other": "quality-focal"}.items():
        text = f"base: retinanet-tiny\ncriterion: {{classification: {{type: {loss}}}}}\n"
        (tmp_path / f"{name}.yaml").write_text(text)
    entrants = contestants(["retinanet-tiny", tmp_path / "mine.yaml", tmp_path / "other.yaml", "gfl-tiny"])
    assert [entrant.name for entrant in entrants] == ["retinanet-tiny", "mine", "other", "gfl-tiny"]
