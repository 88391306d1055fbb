"""Criteria of the user's own module, named in a recipe by their path."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
import yaml

import boxwright
from boxwright.criteria import BalancedCriterion, DenseCriterion, PhasedCriterion
from boxwright.data.synth import write_synthetic
from boxwright.engine import Run, train
from boxwright.errors import RecipeError, RunError
from boxwright.recipes import build_criterion, dump_recipe, load_recipe, parse_recipe
from boxwright.study.comparison.contestants import contestants
from boxwright.study.inspection.loss_shares import loss_shares, with_assigner
from boxwright.testing.scenes import fitted_scene

SOURCE = '''
from typing import Any

import torch

from boxwright.criteria import ALRPCriterion, BalancedCriterion, DenseCriterion, StageCriterion


class Doubt(DenseCriterion):
    """Also charges positives for being undecided."""

    def __init__(self, *parts: Any, doubt: float = 0.1, **options: Any) -> None:
        super().__init__(*parts, **options)
        self.doubt = doubt

    def charge(self, predictions, priors, targets, assignment):
        losses = super().charge(predictions, priors, targets, assignment)
        p = predictions.logits.float().sigmoid()
        doubt = ((p * (1 - p)).sum(-1) * assignment.positive).sum() / self.normalizer
        return losses | {"doubt": self.doubt * doubt}


class Sharper(Doubt):
    def __init__(self, *parts: Any, power: int, **options: Any) -> None:
        super().__init__(*parts, **options)
        self.power = power


class Plain(DenseCriterion): ...


class Balanced(BalancedCriterion): ...


class Ranked(ALRPCriterion): ...


class Stage(StageCriterion): ...


class Narrow(DenseCriterion):
    def __init__(self, assigner, classification, box, coder, doubt: float = 1.0):
        super().__init__(assigner, classification, box, coder)


class Forgetful(DenseCriterion):
    def __init__(self, *parts: Any, **options: Any) -> None:
        parts += tuple(options.pop(name) for name in ("assigner", "classification", "box", "coder"))
        super().__init__(*parts)


class Bare(DenseCriterion):
    def __init__(self, *parts: Any, doubt=0.1, **options: Any) -> None:
        super().__init__(*parts, **options)


class Odd(DenseCriterion):
    def __init__(self, *parts: Any, teacher: torch.nn.Module, **options: Any) -> None:
        super().__init__(*parts, **options)


class Taken(DenseCriterion):
    def __init__(self, *parts: Any, balance: float = 1.0, **options: Any) -> None:
        super().__init__(*parts, **options)


class Shadowing(DenseCriterion):
    def __init__(self, *parts: Any, factory: float = 1.0, **options: Any) -> None:
        super().__init__(*parts, **options)


class Failing(DenseCriterion):
    def __init__(self, *parts: Any, doubt: float = 0.1, **options: Any) -> None:
        self.table = {}["doubt"]


class Particular(DenseCriterion):
    def __init__(self, *parts: Any, doubt: float = 0.1, **options: Any) -> None:
        if doubt > 1:
            raise ValueError(f"doubt must be at most 1, got {doubt}")
        super().__init__(*parts, **options)


class NoCriterion(torch.nn.Module): ...


class Returning(DenseCriterion):
    """Returns what a criterion must not, from its third call on."""

    def __init__(self, *parts: Any, what: str, **options: Any) -> None:
        super().__init__(*parts, **options)
        self.what, self.calls = what, 0

    def charge(self, *arguments):
        losses, what = super().charge(*arguments), self.what
        self.calls += 1
        if what == "list":
            return [*losses.values()]
        if what == "number":
            return losses | {"more": 1.0}
        if what == "constant":
            return losses | {"more": losses["box"].detach()}
        if what == "vector":
            return losses | {"more": losses["box"][None]}
        if what == "sometimes" and self.calls == 2:
            return losses | {"more": losses["box"]}
        if what == "bug" and self.calls == 2:
            return losses | {"more": losses["box"] @ losses["box"]}
        return losses
'''


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_criteria.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_criteria", raising=False)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_synthetic(folder, train=8, val=2, size=64)
    return folder


def own(name: str, *overrides: str, system: str = "retinanet-tiny", say=lambda line: None):
    return load_recipe(system, [f"criterion.type=own_criteria.{name}", *overrides], say=say)


def test_it_is_built_with_its_arguments_beside_the_recipes_parts_and_written_back():
    said = []
    recipe = own("Doubt", "criterion.doubt=0.3", say=said.append)
    assert said == ["criterion: own_criteria.Doubt (doubt 0.3) instead of dense; its other fields stay"]
    text = dump_recipe(recipe)
    assert yaml.safe_load(text)["criterion"]["doubt"] == 0.3
    again = parse_recipe(text, "what was written")
    assert again == recipe
    criterion, plain = build_criterion(again), build_criterion(load_recipe("retinanet-tiny"))
    assert criterion.doubt == 0.3
    assert (criterion.assigner, criterion.box_weight) == (plain.assigner, 2.0)


def test_it_charges_its_term():
    scene = fitted_scene(0)
    plain = build_criterion(load_recipe("retinanet-tiny"))(scene.predictions, scene.priors, scene.targets)
    more = build_criterion(own("Doubt"))(scene.predictions, scene.priors, scene.targets)
    assert more.pop("doubt") > 0
    assert more.keys() == plain.keys()
    assert all(torch.equal(more[name], plain[name]) for name in plain)


def test_arguments_of_its_bases_are_fields_too_and_a_change_of_type_drops_them():
    recipe = own("Sharper", "criterion.power=2", "criterion.doubt=0.5")
    assert (recipe.criterion.power, recipe.criterion.doubt) == (2, 0.5)
    with pytest.raises(RecipeError, match=r"criterion\.power: is missing"):
        own("Sharper")


def test_there_and_back_is_the_recipe_itself(tmp_path):
    (tmp_path / "mine.yaml").write_text(dump_recipe(own("Doubt", "criterion.box_weight=3")))
    back = load_recipe(tmp_path / "mine.yaml", ["criterion.type=dense"])
    assert back == load_recipe("retinanet-tiny", ["criterion.box_weight=3"])


def test_a_file_over_a_base_keeps_the_bases_parts(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "base: gfl-tiny\nname: mine\ncriterion: {type: own_criteria.Doubt, doubt: 0.2, box: {type: ciou}}\n"
    )
    criterion = build_criterion(load_recipe(tmp_path / "mine.yaml"))
    assert (type(criterion).__name__, criterion.doubt, type(criterion.box).__name__) == ("Doubt", 0.2, "CIoULoss")
    assert criterion.distribution is not None


def test_each_phase_has_its_own():
    recipe = load_recipe("tood-tiny", ["criterion.first.type=own_criteria.Doubt", "criterion.first.doubt=0.4"])
    assert parse_recipe(dump_recipe(recipe), "what was written") == recipe
    criterion = build_criterion(recipe)
    assert isinstance(criterion, PhasedCriterion)
    assert criterion.first.doubt == 0.4
    assert type(criterion.then) is DenseCriterion


@pytest.mark.parametrize(("system", "name"), [("rank-sort-tiny", "Balanced"), ("alrp-tiny", "Ranked")])
def test_one_derived_from_a_balancing_criterion_goes_where_that_is_asked_for(system, name):
    assert type(build_criterion(own(name, system=system))).__name__ == name
    for wrong in (own("Plain", system=system), own(name)):  # fields and class would say different things
        with pytest.raises(RecipeError, match=r"criterion\.type: own_criteria\.\w+ is a \w+Criterion, but .* needs a "):
            build_criterion(wrong)
    assert issubclass(type(build_criterion(own("Balanced", "criterion.balance=value"))), BalancedCriterion)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["criterion.type=nowhere.Mine"], r"criterion: cannot import 'nowhere' for 'nowhere.Mine': .*PYTHONPATH=\."),
        (["criterion.type=Doubt"], r"criterion\.type: must be dense, or the path of a class of your own, such as mine"),
        (["criterion.type=own_criteria.Dubt"], "has no class 'Dubt'; did you mean 'Doubt'"),
        (["criterion.type=own_criteria.NoCriterion"], r"is derived from boxwright\.criteria\.DenseCriterion"),
        (["criterion.type=own_criteria.Stage"], "it is made for a stage of a detector with two"),
        (["criterion.type=own_criteria.Narrow"], r"does not take balance|does not take box_weight, .*\*\*options"),
        (["criterion.type=own_criteria.Bare"], "cannot stand in a recipe: Bare: annotate 'doubt'"),
        (["criterion.type=own_criteria.Odd"], r"own_criteria\.Odd cannot stand in a recipe: "),
        (["criterion.type=own_criteria.Taken"], "'balance' is a name of a recipe's crit"),
        (
            ["criterion.type=own_criteria.Shadowing"],
            "'factory' is a name of a recipe's criterion already; call the arg",
        ),
        (["criterion.type=own_criteria.Doubt", "criterion.dout=1"], "unknown key 'dout'; did you mean 'doubt'"),
        (["criterion.type=own_criteria.Doubt", "criterion.doubt=a"], r"criterion\.doubt: must be a number, found 'a'"),
        (["criterion.doubt=1"], "criterion: unknown key 'doubt'"),
        (
            ["criterion.type=own_criteria.Failing"],
            r"cannot be made: KeyError: 'doubt' in .*own_criteria\.py, line",
        ),
        (["criterion.type=own_criteria.Particular", "criterion.doubt=2"], "criterion: doubt must be at most 1, got 2"),
        (["criterion.type=own_criteria.Forgetful"], r"was given box_weight=2\.0, but has 1\.0: hand \*parts and"),
    ],
)
def test_what_is_wrong_is_said(overrides, said):
    with pytest.raises(RecipeError, match=said):
        build_criterion(load_recipe("retinanet-tiny", overrides))


@pytest.mark.parametrize(
    ("system", "key", "said"),
    [
        ("faster-rcnn-tiny", "criterion.type", "criterion: has no type: a criterion of your own goes into a recipe of"),
        ("faster-rcnn-tiny", "criterion.rpn.type", r"criterion\.rpn: has no type: .* assigner can be your own"),
        ("yolov3-tiny", "criterion.type", r"criterion\.type: unknown part 'own_criteria\.Doubt'; Known: region, yolo"),
    ],
)
def test_systems_without_a_dense_criterion_refuse_it(system, key, said):
    with pytest.raises(RecipeError, match=said):
        load_recipe(system, [f"{key}=own_criteria.Doubt"])


def test_a_comparison_takes_it_for_the_criterion_that_it_is(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: atss-tiny\nname: mine\ncriterion: {type: own_criteria.Doubt}\n")
    first, mine = contestants(["atss-tiny", tmp_path / "mine.yaml"])
    assert (mine.held, mine.differs, mine.copy) == ((), (), 0)
    assert (first.recipe.criterion.type, mine.recipe.criterion.type) == ("dense", "own_criteria.Doubt")


def test_an_inspection_divides_its_losses_among_the_priors_and_names_its_term():
    criterion, scene = build_criterion(own("Doubt")), fitted_scene(0)
    criterion = with_assigner(criterion, criterion.assigner)
    shares, terms = loss_shares(criterion, scene.predictions, scene.priors, scene.targets)
    assert shares.keys() == {"classification", "box"}
    assert terms.keys() == {"classification", "box", "doubt"}


SMALL = ("data.size=64", "data.batch_size=4", "data.workers=0", "schedule.epochs=1", "train.precision=32-true")


def test_a_run_trains_resumes_and_loads_with_it_and_knows_its_file(scenes, tmp_path, monkeypatch, capsys):
    overrides = [*SMALL, "criterion.type=own_criteria.Doubt", "criterion.doubt=0.3"]
    run = train("retinanet-tiny", scenes, overrides=overrides, output=tmp_path / "run")
    assert (
        "criterion: own_criteria.Doubt (doubt 0.3) instead of dense; its other fields stay" in capsys.readouterr().out
    )
    assert [record["doubt"] for record in run.metrics() if record["kind"] == "train"][-1] > 0
    assert run.recipe.criterion.doubt == 0.3
    [session] = json.loads((run.path / "environment.json").read_text())
    assert session["own"]["own_criteria.Doubt"]["file"] == str(tmp_path / "own_criteria.py")
    assert boxwright.load(run.path).criterion.doubt == 0.3
    assert not run.edited(run.recipe)

    (tmp_path / "own_criteria.py").write_text(SOURCE + "# another line\n")
    train(resume=run.path, overrides=["schedule.epochs=2"])
    assert "own_criteria.py has been edited since the run's last session" in capsys.readouterr().out.replace("\n", "")
    assert Run.open(run.path).epochs_done == 2

    (tmp_path / "own_criteria.py").unlink()
    monkeypatch.delitem(sys.modules, "own_criteria")
    with pytest.raises(RunError, match=r"cannot import 'own_criteria' for 'own_criteria\.Doubt'"):
        boxwright.load(run.weights_path)


@pytest.mark.parametrize(
    ("what", "accumulate", "said"),
    [
        ("list", 1, r"the criterion must return a dictionary of losses by name, got \["),
        ("number", 1, r"loss term more must be a tensor, got 1\.0"),
        ("constant", 1, "loss term more has no gradient, so that nothing would learn from it"),
        ("vector", 1, r"loss term more has shape \(1,\), but is to be one number"),
        ("sometimes", 1, "returned the loss terms classification, box, more after classification, box: return the"),
        ("sometimes", 2, "returned the loss terms classification, box, more after classification, box: return the"),
        ("bug", 1, r"RuntimeError: .* in .*own_criteria\.py, line \d+\. No epoch has finished; start again with: "),
    ],
)
def test_what_it_must_not_return_stops_the_training_in_one_sentence(scenes, tmp_path, what, accumulate, said):
    overrides = [*SMALL, "criterion.type=own_criteria.Returning", f"criterion.what={what}"]
    overrides += [f"train.accumulate={accumulate}"]
    with pytest.raises(RunError, match=said) as error:
        train("retinanet-tiny", scenes, overrides=overrides, output=tmp_path / "run", quiet=True)
    assert re.search("boxwright train --resume", str(error.value))
