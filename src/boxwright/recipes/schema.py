"""What a recipe says: one validated section for each part of a training."""

from dataclasses import is_dataclass
from inspect import signature
from types import ModuleType
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, field_validator
from torch import nn

from boxwright import assigners, boxes, losses
from boxwright.criteria import DenseCriterion
from boxwright.losses.boxes import BoxLoss
from boxwright.models import heads, necks
from boxwright.recipes.own_criterion import OrOwnCriterion
from boxwright.recipes.parts import NonNegative, Part, PartOf, Positive, Probability, Section, named
from boxwright.recipes.training import OptimizerConfig, ScheduleConfig, TrainConfig

__all__ = [
    "AugmentConfig",
    "BackboneConfig",
    "CriterionConfig",
    "DataConfig",
    "DetectorConfig",
    "FirstEpochs",
    "GuideConfig",
    "InferenceConfig",
    "MixConfig",
    "PhasedCriterionConfig",
    "Recipe",
]


def _exported(package: ModuleType, suffix: str = "") -> dict[str, type]:
    """Classes in a package's `__all__` whose names end in a suffix, by recipe name."""
    return named(getattr(package, name) for name in package.__all__ if name.endswith(suffix))


def _no_assigner(cls: type) -> str | None:
    """Say what speaks against an assigner of the user's own."""
    module = issubclass(cls, nn.Module)
    if not (module or (is_dataclass(cls) and "__call__" in dir(cls))):
        return "an assigner is a dataclass that can be called, or a torch.nn.Module"
    try:
        signature(getattr(cls, "forward" if module else "__call__")).bind(None, None, None, None)
    except TypeError:
        return "it cannot be called with priors, targets and predictions"
    return None


def _without_formula(cls: type) -> bool:
    """Whether a loss takes everything from a base class that leaves the formula open."""
    base = next((base for base in (losses.ClassificationLoss, BoxLoss) if issubclass(cls, base)), None)
    if base is None or hasattr(cls, "function"):
        return False
    return all(getattr(cls, name, None) is getattr(base, name, None) for name in ("compute", "forward"))


def _losses(*spaces: str | None) -> PartOf:
    """Losses that compare one of these spaces; None is that of the classes."""
    options = ("scores" if None in spaces else "weight", "normalizer")

    def compares_else(cls: type) -> str | None:
        if not issubclass(cls, nn.Module):
            return "a loss is a torch.nn.Module"
        space = getattr(cls, "space", None)
        if space in spaces:
            return None
        wanted = " or ".join(known or "classes, which have none" for known in spaces)
        found = f"{space!r} (its `space`)" if space else "classes (it has no `space`)"
        return f"it compares {found} instead of {wanted}"

    def objection(cls: type) -> str | None:
        if said := compares_else(cls):
            return said
        if _without_formula(cls):
            return "it has no formula: give it a method compute or forward, or function = staticmethod(my_loss)"
        try:
            signature(cls.forward).bind(None, None, None, **dict.fromkeys(options))  # type: ignore[attr-defined]
        except TypeError:
            return f"its forward cannot be called with inputs, targets, {options[0]}= and {options[1]}="
        return None

    ours = _exported(losses, "Loss").items()
    return PartOf(
        {name: cls for name, cls in ours if cls is not losses.ClassificationLoss and compares_else(cls) is None},
        objection=objection,
    )


Assigner = Annotated[Part, PartOf(_exported(assigners, "Assigner"), objection=_no_assigner)]
Classification = Annotated[Part, _losses(None)]
Box = Annotated[Part, _losses("boxes", "deltas", "gaussian")]
Distribution = Annotated[Part, _losses("distribution")]
Coder = Annotated[Part, PartOf(_exported(boxes, "Coder"))]
PriorGenerator = Annotated[
    Part,
    PartOf(
        {
            "octave-anchors": boxes.AnchorGenerator.retinanet,
            "square-anchors": boxes.AnchorGenerator.square,
            "rcnn-anchors": boxes.AnchorGenerator.rcnn,
            "points": boxes.PointGenerator,
            "default-boxes": boxes.AnchorGenerator.ssd,
        },
        context=("strides",),
    ),
]
# a recipe cannot give the boxes that an `iou_threshold` needs
Sampler = Annotated[
    Part,
    PartOf(
        {"hard-negative": assigners.HardNegativeSampler, "hard-example": assigners.HardExampleSampler},
        context=("iou_threshold",),
    ),
]
Neck = Annotated[Part, PartOf(_exported(necks), context=("in_channels",))]
Head = Annotated[Part, PartOf(_exported(heads, "Head"), context=("in_channels", "num_classes", "priors_per_cell"))]


class BackboneConfig(Section):
    """A timm model that gives features at several strides."""

    name: str = Field(description="any timm model that offers features_only")
    pretrained: bool = Field(False, description="download timm's weights")
    weights: str | None = Field(None, description="local weight file (.safetensors or .pth) instead of a download")
    frozen_stages: Annotated[int, Field(ge=0)] = Field(0, description="stem and first stages that do not learn")
    norm: Literal["bn", "frozen-bn", "gn"] = "bn"
    levels: tuple[PositiveInt, ...] = Field((3, 4, 5), min_length=1, description="level n has stride 2**n")

    @field_validator("levels")
    @classmethod
    def _consecutive(cls, levels: tuple[int, ...]) -> tuple[int, ...]:
        """A neck merges each level with one of twice its stride, and its own levels follow after those."""
        if levels != tuple(range(levels[0], levels[0] + len(levels))):
            raise ValueError(f"must count upwards one by one, such as [3, 4, 5], got {[*levels]}")
        return levels


class InferenceConfig(Section):
    """From predictions to detections."""

    score_threshold: Probability = 0.05
    pre_nms: PositiveInt = Field(1000, description="candidates per image and level that enter NMS")
    iou_threshold: Probability = 0.5
    max_detections: PositiveInt = 100


class GuideConfig(Section):
    """A second neck and a heavier head that choose the assignment in training and are gone afterwards."""

    head: Head
    detach_epoch: Annotated[int, Field(ge=0)] = Field(
        10, description="first epoch in which only the guide learns from it"
    )


class DetectorConfig(Section):
    """The network, its priors and how its boxes are coded."""

    backbone: BackboneConfig
    neck: Neck
    head: Head
    guide: GuideConfig | None = None
    priors: PriorGenerator
    coder: Coder
    inference: InferenceConfig = InferenceConfig()


class CriterionConfig(Section):
    """Which predictions are matched with which objects, and what each mismatch costs.

    Attributes:
        factory: class of the user's own that `type` names; None for boxwright's.
        added: fields that only it has.
    """

    factory: ClassVar[type[DenseCriterion] | None] = None
    added: ClassVar[tuple[str, ...]] = ()

    type: str = Field("dense", description="dense, or a class of your own by its path, such as mine.MyCriterion")
    assigner: Assigner
    classification: Classification
    box: Box
    sampler: Sampler | None = Field(
        None, description="which priors are charged, by what they cost: hard-negative (SSD), hard-example"
    )
    distribution: Distribution | None = Field(
        None, description="loss of the sides' distributions (integral or fine-grained coder)"
    )
    quality: Classification | None = Field(None, description="loss of the head's quality branch")
    classification_weight: NonNegative = 1.0
    box_weight: NonNegative = 1.0
    balance: Literal["none", "value"] = Field(
        "none", description="value: scale the box loss to the value of the classification loss (ranking losses)"
    )
    distribution_weight: NonNegative = 0.25
    quality_weight: NonNegative = 1.0
    soft_target: Literal["hard", "assignment", "iou"] = Field(
        "hard", description="class target of a positive: 1, the assigner's score, or the IoU of its decoded box"
    )
    sum_targets: bool = Field(True, description="whether soft targets of the assigner also count as the normaliser")
    quality_target: Literal["centerness", "iou"] = "centerness"
    weigh_boxes: Literal["target", "score", "quality"] = Field(
        "target", description="weight of a positive's box losses: class target, highest class score, quality target"
    )

    @field_validator("type")
    @classmethod
    def _dense_or_own(cls, name: str) -> str:
        if name != "dense" and "." not in name:
            raise ValueError(f"must be dense, or the path of a class of your own, such as mine.{name}; found {name!r}")
        return name


class FirstEpochs(CriterionConfig):
    """A criterion for the first epochs only."""

    epochs: PositiveInt


class PhasedCriterionConfig(CriterionConfig):
    """The criterion of a training, and optionally another one that it starts with."""

    first: Annotated[FirstEpochs, OrOwnCriterion()] | None = Field(
        None, description="a whole criterion that takes the first epochs"
    )


class AugmentConfig(Section):
    """Random changes of a training image; 0 or null turns one off."""

    horizontal_flip: Probability = 0.5
    vertical_flip: Probability = 0.0
    scale_jitter: tuple[Positive, Positive] | None = Field(None, description="zoom range; above 1 crops, below 1 pads")
    expand: Probability = Field(0.0, description="chance of SSD's expansion: a canvas of up to 4 times the sides")
    iou_crop: Probability = Field(0.0, description="chance of SSD's crop by minimum overlap")
    photometric: NonNegative = Field(0.0, description="strength of brightness, contrast, saturation and hue changes")


class MixConfig(Section):
    """Training images made of several."""

    mosaic: Probability = Field(0.0, description="chance that four images become one")
    mixup: Probability = Field(0.0, description="chance that a second image is laid over an image")


class DataConfig(Section):
    """How images become batches."""

    size: PositiveInt | tuple[PositiveInt, PositiveInt] = Field(
        description="side of a square to letterbox into, or (short, long): short side resized, long side bounded"
    )
    batch_size: PositiveInt = Field(description="images per optimiser step over all devices and accumulation")
    workers: Annotated[int, Field(ge=0)] = 2
    augment: AugmentConfig = AugmentConfig()
    mix: MixConfig = MixConfig()


class Recipe(Section):
    """A whole system: detector, criterion, data, optimiser, schedule, training."""

    name: str
    description: str
    detector: DetectorConfig
    criterion: Annotated[PhasedCriterionConfig, OrOwnCriterion()]
    data: DataConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    train: TrainConfig = TrainConfig()
