"""What another `type` leaves of a section, and what is said about it."""

import pytest
from typer.testing import CliRunner

from boxwright.cli.app import app
from boxwright.errors import RecipeError
from boxwright.recipes import dump_recipe, load_recipe, parse_recipe
from boxwright.recipes.compatibility import remarks

SGD = ("optimizer.type=sgd", "optimizer.lr=0.01", "optimizer.weight_decay=0.0001")


def swapped(name, *overrides):
    """Return a recipe with overrides, and what was said."""
    said = []
    return load_recipe(name, overrides, say=said.append), said


def based(tmp_path, text):
    """Return a recipe of a file that is built on `retinanet-tiny`."""
    (tmp_path / "mine.yaml").write_text("base: retinanet-tiny\nname: mine\n" + text)
    return load_recipe(tmp_path / "mine.yaml")


def test_another_schedule_keeps_epochs_and_warm_up():
    recipe, said = swapped("retinanet-tiny", "schedule.type=step", "schedule.milestones=[20, 26]")
    before = load_recipe("retinanet-tiny").schedule
    kept = ("epochs", "warmup_steps", "warmup_start")
    assert all(getattr(recipe.schedule, name) == getattr(before, name) for name in kept)
    assert recipe.schedule.warmup_steps == 100
    line = "schedule: step (milestones [20, 26], gamma 0.1) instead of cosine (final 0.01); its other fields stay"
    assert said == [line]
    assert not [remark for remark in remarks(recipe) if "milestones" in remark]
    # there and back, the field that only one of them reads is gone
    again = load_recipe("retinanet", ["schedule.type=cosine"]).schedule
    assert (again.milestones, again.epochs, again.warmup_steps) == ((), 12, 500)


def test_a_staircase_without_a_step_is_remarked():
    assert "schedule.milestones is empty: the learning rate does not fall" in [
        *remarks(load_recipe("retinanet-tiny", ["schedule.type=step"]))
    ]


def test_another_regime_stays_with_another_schedule():
    recipe = load_recipe("faster-rcnn-tiny", ["schedule.regime=alternating", "schedule.type=step"])
    assert recipe.schedule.regime == "alternating"


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        (SGD[:1], ["lr", "weight_decay"]),
        (SGD[:2], ["weight_decay"]),
        ((SGD[0], SGD[2]), ["lr"]),
    ],
)
def test_another_optimiser_needs_a_rate_and_a_decay_of_its_own(given, missing):
    with pytest.raises(RecipeError) as said:
        load_recipe("retinanet-tiny", given)
    assert [
        name for name in ("lr", "weight_decay") if f"optimizer.{name}: is missing (what sgd" in str(said.value)
    ] == (missing)
    assert "0.001 for adamw" in str(said.value) or "0.05 for adamw" in str(said.value)


def test_another_optimiser_keeps_what_decays_and_how_fast_the_backbone_learns():
    recipe, said = swapped("retinanet-tiny", *SGD, "optimizer.backbone_lr_scale=0.1")
    assert recipe.optimizer.decay_norm_and_bias is False  # the recipe's; the default is True
    assert recipe.optimizer.weight_decay == 0.0001
    assert said == [
        "optimizer: sgd (lr 0.01, weight_decay 0.0001, momentum 0.9, nesterov false) instead of adamw (lr 0.001, "
        "weight_decay 0.05); its other fields stay"
    ]


def test_a_file_over_a_base_follows_the_same_rule(tmp_path):
    recipe = based(tmp_path, "optimizer: {type: sgd, lr: 0.01, weight_decay: 0.001}\nschedule: {type: step}\n")
    assert (recipe.optimizer.decay_norm_and_bias, recipe.schedule.warmup_steps) == (False, 100)
    with pytest.raises(RecipeError, match=r"optimizer\.weight_decay: is missing"):
        based(tmp_path, "optimizer: {type: sgd, lr: 0.01}\n")


def test_a_part_keeps_nothing_and_says_what_it_has_instead():
    recipe, said = swapped("retinanet-tiny", "criterion.classification.type=varifocal", "criterion.box.type=ciou")
    assert recipe.criterion.classification.alpha == 0.75  # its own default, of another meaning than the old one's
    assert said[0].startswith("criterion.classification: varifocal (alpha 0.75, gamma 2.0, ")
    assert said[0].endswith(" instead of sigmoid-focal (alpha 0.25, gamma 2.0)")
    assert said[1].startswith("criterion.box: ciou")
    assert len(said) == 2


def test_the_same_type_is_no_swap():
    recipe, said = swapped("retinanet-tiny", "optimizer.type=adamw", "criterion.box.type=giou")
    assert recipe == load_recipe("retinanet-tiny")
    assert not said


def test_a_part_that_was_null_can_be_named(tmp_path):
    (tmp_path / "shown.yaml").write_text(dump_recipe(load_recipe("retinanet-tiny")))
    recipe, said = swapped(tmp_path / "shown.yaml", "criterion.sampler.type=hard-negative")
    assert recipe.criterion.sampler.ratio == 3
    assert said == ["criterion.sampler: hard-negative (ratio 3.0, minimum 0)"]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("schedule.milestones=[8]", "schedule: milestones is read by type step alone, and the type is cosine"),
        ("schedule.gamma=0.5", "schedule: gamma is read by type step alone"),
        ("optimizer.momentum=0.8", "optimizer: momentum is read by type sgd alone, and the type is adamw: leave it"),
    ],
)
def test_a_field_that_only_another_type_reads_is_refused(override, said):
    with pytest.raises(RecipeError, match=said):
        load_recipe("retinanet-tiny", [override])


def test_what_is_written_holds_only_what_is_read():
    cosine, step = load_recipe("retinanet-tiny"), load_recipe("retinanet")
    values = [(recipe.model_dump()["optimizer"], recipe.model_dump()["schedule"]) for recipe in (cosine, step)]
    assert [("betas" in o, "momentum" in o, "milestones" in s, "final" in s) for o, s in values] == [
        (True, False, False, True),
        (False, True, True, False),
    ]
    for recipe in (cosine, step):
        assert parse_recipe(dump_recipe(recipe), "what was written") == recipe


def test_the_command_shows_a_recipe_and_says_beside_it_what_was_swapped():
    result = CliRunner().invoke(app, ["recipes", "show", "retinanet-tiny", "--set", "schedule.type=step"])
    assert result.exit_code == 0
    assert result.stderr.startswith("schedule: step (milestones [], gamma 0.1) instead of cosine (final 0.01)")
    assert parse_recipe(result.stdout, "what was shown").schedule.warmup_steps == 100
