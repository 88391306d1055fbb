"""What nobody passes: the published defaults, alike for a function and its module, which hands on what it takes."""

import inspect
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch

from boxwright import losses
from boxwright.losses import systems
from boxwright.losses.boxes import BoxLoss
from boxwright.losses.pointwise import ClassificationLoss

COMMON = {"scores", "weight", "class_weight", "reduction", "normalizer"}
MODULES = [
    cls
    for name in losses.__all__
    if isinstance(cls := getattr(losses, name), type) and issubclass(cls, torch.nn.Module) and cls != ClassificationLoss
]
WITH_FUNCTION = [cls for cls in MODULES if hasattr(cls, "function")]

# of the paper, or where papers leave it open of the code that people compare with
PUBLISHED: dict[str, dict[str, Any]] = {
    "sigmoid_cross_entropy": {"label_smoothing": 0.0, "from_logits": True},
    "softmax_cross_entropy": {"label_smoothing": 0.0, "background": "last"},
    "sigmoid_focal_loss": {"alpha": 0.25, "gamma": 2.0, "from_logits": True},
    "softmax_focal_loss": {"alpha": None, "gamma": 2.0, "background": "last"},
    "quality_focal_loss": {"beta": 2.0, "from_logits": True},
    "task_aligned_focal_loss": {"gamma": 2.0, "from_logits": True},
    "varifocal_loss": {"alpha": 0.75, "gamma": 2.0, "weight_by_target": True, "detach": False},
    "matchability_aware_loss": {"gamma": 1.5, "alpha": 1.0, "detach": True},
    "SeesawLoss": {"p": 0.8, "q": 2.0, "background": "last"},
    "EqualizedV2Loss": {"gamma": 12.0, "mu": 0.8, "alpha": 4.0},
    "FederatedLoss": {"classes": 50, "frequency": None},
    "GHMCLoss": {"bins": 30, "momentum": 0.75},
    "GHMRLoss": {"mu": 0.02, "bins": 10, "momentum": 0.7},
    "l1_loss": {},
    "smooth_l1_loss": {"beta": 1.0},
    "sigma_smooth_l1_loss": {"sigma": 1.0, "inside_weight": None},
    "balanced_l1_loss": {"alpha": 0.5, "gamma": 1.5, "beta": 1.0},
    "iou_loss": {"form": "linear", "eps": 1e-6},
    "giou_loss": {"eps": 1e-7, "version": "floored"},
    "diou_loss": {"eps": 1e-7},
    "ciou_loss": {"version": "gated", "eps": 1e-7},
    "eiou_loss": {"eps": 1e-7},
    "siou_loss": {"theta": 4.0, "eps": 1e-7},
    "mpdiou_loss": {"image_size": (640.0, 640.0), "eps": 1e-7},
    "bounded_iou_loss": {"beta": 0.2, "eps": 1e-3},
    "wise_iou_loss": {"mean": 1.0, "alpha": 1.9, "delta": 3.0, "eps": 1e-7},
    "WiseIoULoss": {"alpha": 1.9, "delta": 3.0, "momentum": 0.01, "eps": 1e-7},
    "normalized_wasserstein_loss": {"constant": 12.8, "eps": 1e-7},
    "gaussian_loss": {"least": -10.0},
    "distribution_focal_loss": {},
    "fine_grained_localization_loss": {},
    "FineGrainedLocalizationLoss": {"bins": 32, "up": 0.5, "scale": 4.0},
    "localization_distillation_loss": {"temperature": 5.0},
    "effective_number": {"beta": 0.999},
    "faster_rcnn_loss": {"proposal_sigma": 3.0, "region_sigma": 1.0},
    "gfl_loss": {
        "from_logits": True,
        "beta": 2.0,
        "box_factor": 2.0,
        "distribution_factor": 0.25,
        "label_weight": None,
    },
    "tood_loss": {"gamma": 2.0, "box_factor": 2.0, "from_logits": False},
    "tood_warmup_loss": {
        "alpha": 0.25,
        "gamma": 2.0,
        "box_factor": 2.0,
        "from_logits": False,
        "label_weight": None,
    },
    "set_prediction_loss": {"background_weight": None},
    "multibox_loss": {"negative_ratio": 3.0},
    "hard_negatives": {"ratio": 3.0},
    "darknet_yolo_loss": {"ignore_thresh": 0.5, "truth_thresh": 1.0},
    "yolov3_layer_loss": {"ignore_thresh": 0.5, "anchor_offset": 0.0, "objectness_scale": 1.0},
    "yolov3_loss": {"ratio_thresh": 4.0, "box_gain": 0.05, "objectness_gain": 1.0, "class_gain": 0.5},
    "region_loss": {
        "form": "darknet",
        "thresh": 0.6,
        "object_scale": 5.0,
        "noobject_scale": 1.0,
        "class_scale": 1.0,
        "coord_scale": 1.0,
        "rescore": True,
        "softmax": True,
        "bias_match": True,
        "warmup": 12800,
    },
}


def defaults(callable_: Callable[..., Any]) -> dict[str, Any]:
    """Defaults of the arguments that have one."""
    parameters = inspect.signature(callable_).parameters.values()
    return {one.name: one.default for one in parameters if one.default is not one.empty}


def own(callable_: Callable[..., Any]) -> dict[str, Any]:
    """Those of the arguments that not every loss takes."""
    return {name: value for name, value in defaults(callable_).items() if name not in COMMON}


@pytest.mark.parametrize("name", PUBLISHED)
def test_defaults_are_the_published_ones(name: str) -> None:
    assert own(getattr(losses, name, None) or getattr(systems, name)) == PUBLISHED[name]


@pytest.mark.parametrize("cls", MODULES, ids=lambda cls: cls.__name__)
def test_a_module_has_the_defaults_of_its_function(cls: Any) -> None:
    common = {name: value for name, value in defaults(cls).items() if name in COMMON}
    if cls in WITH_FUNCTION:
        function = defaults(cls.function)
        assert {name: function[name] for name in own(cls)} == own(cls)
        assert {function.pop(name, None) for name in COMMON - {"reduction"}} == {None}
        assert function["reduction"] == "none"
    if issubclass(cls, BoxLoss | ClassificationLoss):
        assert common.pop("reduction") == "mean"
    assert set(common.values()) <= {None, "mean"}


def test_the_region_module_has_the_defaults_of_its_function() -> None:
    assert own(systems.RegionLoss) == own(systems.region_loss)


def test_which_losses_are_made_for_a_quality() -> None:
    made = {cls.__name__ for cls in MODULES if getattr(cls, "takes_quality", False)}
    graded = {"QualityFocalLoss", "TaskAlignedFocalLoss", "VarifocalLoss", "MatchabilityAwareLoss"}
    assert made == graded | {"RankSortLoss"}


def test_what_box_losses_compare() -> None:
    spaces: dict[str, set[str]] = {}
    for cls in MODULES:
        if hasattr(cls, "space"):
            spaces.setdefault(cls.space, set()).add(cls.__name__.removesuffix("Loss"))
    assert spaces.pop("deltas") == {"L1", "SmoothL1", "SigmaSmoothL1", "BalancedL1", "GHMR"}
    assert spaces.pop("gaussian") == {"Gaussian"}
    assert spaces.pop("distribution") == {"DistributionFocal", "FineGrainedLocalization"}
    assert set(spaces) == {"boxes"}


def another(hint: Any, value: Any) -> Any:
    """Some other value that an option may have."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return value / 2 + 0.15
    if get_origin(hint) is Literal:
        return next(choice for choice in get_args(hint) if choice != value)
    return (320.0, 320.0) if isinstance(value, tuple) else 0.5


@pytest.mark.parametrize(
    "cls", [cls for cls in MODULES if issubclass(cls, ClassificationLoss)], ids=lambda cls: cls.__name__
)
def test_a_module_hands_on_its_class_weights(cls: Any) -> None:
    loss = cls(
        **{"num_classes": 2} if "num_classes" in inspect.signature(cls).parameters else {}, class_weight=(0.5, 2)
    )
    assert loss.class_weight.tolist() == [0.5, 2]
    assert loss.num_classes == 2


@pytest.mark.parametrize("cls", [*WITH_FUNCTION, losses.WiseIoULoss], ids=lambda cls: cls.__name__)
def test_a_module_hands_on_every_option(cls: type[torch.nn.Module]) -> None:
    options = own(cls)
    hints = get_type_hints(cls.__init__)
    changed = {name: another(hints[name], value) for name, value in options.items()}
    loss = cls(**changed, reduction="sum")
    assert {**vars(loss), **vars(loss)["hyper"]}.items() >= {**changed, "reduction": "sum"}.items()
    assert not {name for name in options if changed[name] == options[name]}
