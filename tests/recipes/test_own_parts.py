"""Losses and assigners of the user's own module, named in a recipe by their path."""

from pathlib import Path

import pytest
import torch

from boxwright.assigners import ATSSAssigner
from boxwright.criteria import set_epoch
from boxwright.errors import RecipeError
from boxwright.recipes import build_criterion, build_detector, dump_recipe, load_recipe, parse_recipe
from boxwright.study.inspection.assigner_choices import choices
from boxwright.study.inspection.loss_shares import with_assigner

SOURCE = """
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from boxwright.assigners import ATSSAssigner
from boxwright.losses import ClassificationLoss, GIoULoss, Reduction, SigmoidFocalLoss
from boxwright.losses.boxes import BoxLoss


class SharpLoss(SigmoidFocalLoss):
    def __init__(self, gamma: float = 5.0, reduction: Reduction = "mean") -> None:
        super().__init__(gamma=gamma, reduction=reduction)


class HalvedLoss(GIoULoss):
    def forward(self, *args, **options):
        return super().forward(*args, **options) / 2


@dataclass(frozen=True)
class FirstAssigner:
    topk: int = 3
    needs_predictions: ClassVar[bool] = False

    def __call__(self, priors, targets, predictions=None):
        return ATSSAssigner(self.topk)(priors, targets, predictions)


@dataclass
class Narrow:
    def __call__(self, priors, targets): ...


@dataclass(frozen=True)
class Curious:
    def __call__(self, priors, targets, predictions):
        return ATSSAssigner()(priors, targets, predictions)


@dataclass
class Growing:
    last: int = 9
    epoch: int = 0
    needs_predictions: ClassVar[bool] = False

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __call__(self, priors, targets, predictions=None):
        return ATSSAssigner(min(self.last, 1 + self.epoch))(priors, targets)


class Counting(nn.Module):
    needs_predictions = False

    def __init__(self, topk: int = 3):
        super().__init__()
        self.topk, self.epoch = topk, None
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def set_epoch(self, epoch):
        self.epoch = epoch

    def forward(self, priors, targets, predictions=None):
        self.calls += 1
        return ATSSAssigner(self.topk)(priors, targets)


class Spaced(nn.Module):
    space = "classes"

    def forward(self, inputs, targets, **options): ...


class Simple(nn.Module):  # no constructor of its own
    def forward(self, inputs, targets, scores=None, normalizer=None):
        return inputs.square().sum() / normalizer


class Handed(SharpLoss):
    def __init__(self, more: float = 1.0, **options):
        super().__init__(**options)
        self.more = more


class Formless(ClassificationLoss): ...


class FormlessBox(BoxLoss): ...


class Bare(nn.Module):
    def __init__(self, strength):
        super().__init__()

    def forward(self, inputs, targets, **options): ...


class Odd(nn.Module):
    def __init__(self, strength: nn.Module):
        super().__init__()

    def forward(self, inputs, targets, **options): ...


def function(inputs, targets):
    pass
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_parts.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)


def with_parts(*overrides: str):
    return load_recipe("retinanet-tiny", [f"criterion.{override}" for override in overrides])


def test_they_are_built_with_their_fields_and_written_back():
    recipe = with_parts(
        "classification.type=own_parts.SharpLoss",
        "classification.gamma=3",
        "box.type=own_parts.HalvedLoss",
        "assigner.type=own_parts.FirstAssigner",
    )
    again = parse_recipe(dump_recipe(recipe), "what was written")
    assert again == recipe
    assert dump_recipe(again) == dump_recipe(recipe)
    criterion = build_criterion(again)
    assert criterion.classification.hyper["gamma"] == 3
    assert type(criterion.box).__name__ == "HalvedLoss"
    assert criterion.assigner.topk == 3


def test_arguments_that_are_handed_on_are_fields_and_no_constructor_is_none():
    criterion = build_criterion(with_parts("classification={type: own_parts.Handed, more: 2, gamma: 4}"))
    assert (criterion.classification.more, criterion.classification.hyper["gamma"]) == (2, 4)
    assert with_parts("classification.type=own_parts.Simple").criterion.classification.model_dump() == {
        "type": "own_parts.Simple"
    }


def test_a_detector_learns_by_them():
    recipe = with_parts("classification.type=own_parts.SharpLoss", "assigner.type=own_parts.FirstAssigner")
    detector = build_detector(recipe, ["a", "b"]).train()
    targets = [{"boxes": torch.tensor([[4.0, 4, 40, 40]]), "labels": torch.tensor([1])}]
    sum(detector([torch.rand(3, 64, 64)], targets).values()).backward()
    assert all(weight.grad.isfinite().all() for weight in detector.parameters() if weight.grad is not None)


@pytest.mark.parametrize("kind", ["Growing", "Counting"])
def test_assigners_are_told_the_epoch(kind: str):
    criterion = build_criterion(with_parts(f"assigner.type=own_parts.{kind}"))
    for epoch in (0, 4):
        set_epoch(criterion, epoch)
        assert criterion.assigner.epoch == epoch


def test_an_assigner_with_running_values_is_saved_with_the_detector_and_gives_way_to_another():
    detector = build_detector(with_parts("assigner.type=own_parts.Counting"), ["a", "b"]).train()
    detector([torch.rand(3, 64, 64)], [{"boxes": torch.tensor([[4.0, 4, 40, 40]]), "labels": torch.tensor([1])}])
    assert detector.state_dict()["criterion.assigner.calls"] == 1
    other = with_assigner(detector.criterion, ATSSAssigner(topk=5))
    assert other.assigner.topk == 5
    assert detector.criterion.assigner.calls == 1


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("box.type=nowhere.MyLoss", r"criterion\.box: cannot import 'nowhere' for 'nowhere.MyLoss': .*PYTHONPATH=\."),
        (
            "box.type=HalvedLoss",
            r"unknown part 'HalvedLoss'; .*one of your own is named by its module, such as mine\.",
        ),
        ("classification.type=own_parts.Formless", "it has no formula: give it a method compute or forward, or funct"),
        ("box.type=own_parts.FormlessBox", "it has no formula"),
        ("box.type=own_parts.HalvedLos", "has no class 'HalvedLos'; did you mean 'HalvedLoss'"),
        (
            "box.type=own_parts.function",
            "has no class 'function'; .*Known: Bare, Counting, Curious, FirstAssigner, Formless, FormlessBox, Growing",
        ),
        (
            "box.type=own_parts.SharpLoss",
            r"compares classes \(it has no `space`\) instead of boxes or deltas or",
        ),
        (
            "classification.type=own_parts.HalvedLoss",
            r"compares 'boxes' \(its `space`\) instead of classes, which have none",
        ),
        (
            "classification.type=own_parts.Spaced",
            r"compares 'classes' \(its `space`\) instead of classes, which have none",
        ),
        ("classification.type=torch.nn.BCELoss", "cannot be called with inputs, targets, scores= and normalizer="),
        ("classification.type=own_parts.FirstAssigner", "because a loss is a torch.nn.Module"),
        ("assigner.type=own_parts.SharpLoss", "it cannot be called with priors, targets and predictions"),
        ("assigner.type=own_parts.Narrow", "it cannot be called with priors, targets and predictions"),
        (
            "assigner.type=subprocess.Popen",
            r"because an assigner is a dataclass that can be called, or a torch\.nn\.Module",
        ),
        ("classification.type=own_parts.Bare", "Bare: annotate 'strength', so that a recipe can check its value"),
        ("classification.type=own_parts.Odd", "own_parts.Odd cannot stand in a recipe: "),
        ("classification={type: own_parts.SharpLoss, gama: 2}", "unknown key 'gama'; did you mean 'gamma'"),
        ("classification={type: own_parts.SharpLoss, gamma: a}", r"classification\.gamma: must be a number, found 'a'"),
    ],
)
def test_what_is_wrong_is_said(override: str, said: str):
    with pytest.raises(RecipeError, match=said):
        with_parts(override)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1\nclass MyLoss(\n", r"SyntaxError: '\(' was never closed in {file}, line 2"),
        ("\n\nimport nowhere\n", r"ModuleNotFoundError: No module named 'nowhere' in {file}, line 3"),
        ("from torch import nowhere\n", r"ImportError: cannot import name 'nowhere' from 'torch' .* in {file}, line 1"),
        ("import json\n\njson.loads('')\n", r"JSONDecodeError: Expecting value: .* in {file}, line 3"),
        ("def f():\n    return 1 / 0\n\nf()\n", "ZeroDivisionError: division by zero in {file}, line 2"),
    ],
)
def test_what_its_module_raises_is_said_with_file_and_line(tmp_path, source: str, said: str):
    (tmp_path / "broken_parts.py").write_text(source)
    pattern = "cannot import 'broken_parts' for 'broken_parts.MyLoss': " + said.format(
        file=tmp_path / "broken_parts.py"
    )
    with pytest.raises(RecipeError, match=pattern):
        with_parts("box.type=broken_parts.MyLoss")


def test_proposals_are_matched_by_one_that_needs_no_predictions():
    recipe = load_recipe("faster-rcnn-tiny", ["criterion.roi.assigner.type=own_parts.FirstAssigner"])
    detector = build_detector(recipe, ["a", "b"]).train()
    targets = [{"boxes": torch.tensor([[4.0, 4, 40, 40]]), "labels": torch.tensor([1])}]
    losses = detector([torch.rand(3, 64, 64)], targets)
    assert losses["roi_class"] > 0
    with pytest.raises(RecipeError, match=r"roi\.assigner: own_parts\.Curious needs priors on a grid, or predictions"):
        build_detector(load_recipe("faster-rcnn-tiny", ["criterion.roi.assigner.type=own_parts.Curious"]), ["a"])


def test_an_assigner_is_inspected_by_its_path():
    chosen = choices(load_recipe("retinanet-tiny"), ["own_parts.FirstAssigner:topk=5"])
    assert chosen[-1].assigner.topk == 5
    with pytest.raises(RecipeError, match=r"topk: .*integer"):
        choices(load_recipe("retinanet-tiny"), ["own_parts.FirstAssigner:topk=many"])
    with pytest.raises(RecipeError, match=r"'own_parts\.FirstAsigner': module 'own_parts' has no class"):
        choices(load_recipe("retinanet-tiny"), ["own_parts.FirstAsigner"])
