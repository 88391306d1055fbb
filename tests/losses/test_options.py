"""Options that cannot be meant are refused by name where a loss is made, so that a recipe says which it is."""

import pytest
import torch

from boxwright import losses
from boxwright.errors import RecipeError
from boxwright.recipes import build_criterion, load_recipe

EXPONENT = r"exponent of the modulating factor must not be negative, got -1"


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("SigmoidFocalLoss", {"gamma": -1.0}, EXPONENT),
        ("SoftmaxFocalLoss", {"gamma": -1.0, "alpha": (0.1, 0.2, 0.3)}, EXPONENT),
        ("SigmoidFocalLoss", {"alpha": -1}, "alpha must not be negative, got -1; None leaves the weighting out"),
        ("QualityFocalLoss", {"beta": -1.0}, EXPONENT),
        ("TaskAlignedFocalLoss", {"gamma": -1.0}, EXPONENT),
        ("VarifocalLoss", {"gamma": -1.0}, EXPONENT),
        ("MatchabilityAwareLoss", {"gamma": -1.0}, EXPONENT),
        ("SigmoidCrossEntropyLoss", {"label_smoothing": 1.5}, r"label_smoothing is a share from 0 to 1, got 1\.5"),
        ("SoftmaxCrossEntropyLoss", {"label_smoothing": -0.1}, r"label_smoothing is a share from 0 to 1, got -0\.1"),
        ("SoftmaxCrossEntropyLoss", {"background": "middle"}, "background must be one of .*, got 'middle'"),
        ("SeesawLoss", {"num_classes": 2, "reduction": "avg"}, "reduction must be one of .*, got 'avg'"),
        ("FederatedLoss", {"classes": 0}, "classes must be at least 1, got 0"),
        ("GHMCLoss", {"bins": 0}, "bins must be at least 1"),
        ("GHMRLoss", {"mu": 0.0}, r"mu must be positive, got 0\.0"),
        ("GHMRLoss", {"reduction": "avg"}, "reduction must be one of .*, got 'avg'"),
        ("APLoss", {"delta": -1.0}, r"delta must be at least 0, got -1\.0"),
        ("RankSortLoss", {"scope": "level"}, "scope must be one of 'batch', 'class', 'image', got 'level'"),
        ("ALRPLoss", {"delta": -1.0}, r"delta must be at least 0, got -1\.0"),
        ("ALRPLoss", {"tau": 1.0}, r"tau must be below 1, got 1\.0"),
        ("ALRPLoss", {"period": 0}, "period must be at least 1 step, got 0"),
        ("IoULoss", {"form": "root"}, "form must be one of .*, got 'root'"),
        ("GIoULoss", {"version": "mmdet"}, "version must be one of .*, got 'mmdet'"),
        ("CIoULoss", {"version": "mmdet"}, "version must be one of .*, got 'mmdet'"),
        ("BoundedIoULoss", {"beta": -1.0}, r"beta must not be negative, got -1\.0"),
        ("SIoULoss", {"theta": 0.5}, r"theta must be at least 1, got 0\.5"),
        ("NormalizedWassersteinLoss", {"constant": 0.0}, r"constant must be positive, got 0\.0"),
        ("SmoothL1Loss", {"beta": -1.0}, r"beta must not be negative, got -1\.0"),
        ("SigmaSmoothL1Loss", {"sigma": 0.0}, r"sigma must be positive, got 0\.0"),
        ("BalancedL1Loss", {"alpha": 0.0}, r"alpha, gamma and beta must be positive, got 0\.0, 1\.5 and 1\.0"),
        ("GaussianLoss", {"reduction": "avg"}, "reduction must be one of .*, got 'avg'"),
        ("DistributionFocalLoss", {"reduction": "avg"}, "reduction must be one of .*, got 'avg'"),
        ("FineGrainedLocalizationLoss", {"reduction": "avg"}, "reduction must be one of .*, got 'avg'"),
    ],
)
def test_what_cannot_be_meant_is_named(name, options, words):
    with pytest.raises(ValueError, match=words):
        getattr(losses, name)(**options)


@pytest.mark.parametrize("alpha", [None, 0.3, 1, (0.1, 0.2, 0.3), [0.1, 0.2, 0.3]], ids=repr)
def test_alpha_is_one_number_or_one_per_class(alpha):
    loss = losses.SigmoidFocalLoss(alpha=alpha, reduction="sum")
    expected = losses.sigmoid_focal_loss(torch.zeros(2, 3), torch.tensor([1, -1]), alpha=alpha, reduction="sum")
    assert loss(torch.zeros(2, 3), torch.tensor([1, -1])) == expected
    assert not loss.state_dict()  # an option of this run, not of the checkpoint's


@pytest.mark.parametrize("name", ["APLoss", "RankSortLoss", "ALRPLoss"])
@pytest.mark.parametrize("label", [3, -3])
def test_rankings_refuse_labels_of_no_class(name, label):
    boxes = (torch.zeros(2, 4),) if name == "ALRPLoss" else ()
    with pytest.raises(ValueError, match=f"labels must be -2 .* or 0 to 2 for inputs of 3 classes, got {label}"):
        getattr(losses, name)()(torch.zeros(2, 4, 3), torch.full((2, 4), label), *boxes)


def test_frequencies_are_one_per_class():
    with pytest.raises(ValueError, match=r"frequency must hold one number per class \(3,\), got \(2,\)"):
        losses.FederatedLoss(frequency=(1.0, 2.0))(torch.zeros(1, 3), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match="is made for 2 classes, but the data have 3"):
        losses.FederatedLoss(frequency=(1.0, 2.0)).count_classes([1, 2, 3])
    assert not losses.FederatedLoss(frequency=(1.0, 2.0)).state_dict()  # of this run's data, not of the checkpoint's


def test_a_recipe_says_where():
    with pytest.raises(RecipeError, match=r"criterion\.classification: the exponent .* got -1\.0"):
        build_criterion(load_recipe("retinanet-tiny", ["criterion.classification.gamma=-1"]))
    with pytest.raises(RecipeError, match=r"criterion\.box: beta must not be negative, got -1\.0"):
        build_criterion(load_recipe("ssd-tiny", ["criterion.box.beta=-1"]))


@pytest.mark.parametrize(
    ("module", "printed"),
    [
        (losses.GIoULoss(version="torchvision"), "GIoULoss(eps=1e-07, version='torchvision', reduction='mean')"),
        (losses.RankSortLoss(), "RankSortLoss(delta=0.5, scope='batch')"),
        (losses.APLoss(), "APLoss(delta=1.0, scope='batch')"),
        (losses.ALRPLoss(), "ALRPLoss(delta=1.0, tau=0.7, scope='batch', period=7330)"),
        (losses.SeesawLoss(3), "SeesawLoss(num_classes=3, p=0.8, q=2.0, background='last', reduction='mean')"),
        (losses.QualityFocalLoss(class_weight="balanced"), "reduction='mean', class_weight='balanced')"),
        (losses.GHMRLoss(bins=7), "(density): GradientDensity(bins=7, momentum=0.7)"),
    ],
)
def test_a_module_prints_its_options(module: torch.nn.Module, printed: str) -> None:
    assert printed in repr(module)
