"""Recipes of two-stage detectors."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from torch import Tensor

from boxwright.assigners import HardExampleSampler, HardNegativeSampler, RandomSampler
from boxwright.criteria import StageCriterion, TwoStageCriterion
from boxwright.criteria.dense import BoxCoder
from boxwright.errors import RecipeError
from boxwright.models import Postprocess, ProposalFilter, TwoLayerHead, TwoStageDetector
from boxwright.recipes.compatibility import is_softmax, of_head, of_losses
from boxwright.recipes.parts import NonNegative, Part, PartOf, Section, built, count_classes
from boxwright.recipes.schema import (
    Assigner,
    BackboneConfig,
    Box,
    Classification,
    Coder,
    Head,
    InferenceConfig,
    Neck,
    PriorGenerator,
    Recipe,
)
from boxwright.recipes.training import ScheduleConfig
from boxwright.recipes.trunk import build_head, build_trunk

__all__ = ["StageConfig", "TwoStageRecipe", "build_two_stage_criterion", "build_two_stage_detector"]

Sampler = Annotated[
    Part,
    PartOf(
        {"random": RandomSampler, "hard-negative": HardNegativeSampler, "hard-example": HardExampleSampler},
        context=("iou_threshold",),
    ),
]
Proposals = Annotated[Part, PartOf({"filter": ProposalFilter})]
Regions = Annotated[
    Part, PartOf({"two-layer": TwoLayerHead}, context=("in_channels", "levels", "num_classes", "background"))
]


class TwoStageConfig(Section):
    """The network: a dense head that proposes boxes, and a head that looks at each of them."""

    type: Literal["two-stage"]
    backbone: BackboneConfig
    neck: Neck
    head: Head = Field(description="the proposal network's, whose only class is 'object'")
    priors: PriorGenerator
    coder: Coder = Field(description="of the proposal network's boxes, relative to the priors")
    proposals: Proposals
    regions: Regions
    region_coder: Coder = Field(description="of the regions' boxes, relative to the proposals; delta")
    inference: InferenceConfig = InferenceConfig()


class _WithoutOwn(Section):
    """A section of a criterion that cannot be one of the user's own."""

    @model_validator(mode="before")
    @classmethod
    def _untyped(cls, values: Any) -> Any:
        if isinstance(values, dict) and "type" in values:
            raise ValueError(
                "has no type: a criterion of your own goes into a recipe of one stage, such as retinanet, as the terms "
                "of a stage are its classification and its box loss; these and the assigner can be your own"
            )
        return values


class StageConfig(_WithoutOwn):
    """Which priors or proposals a stage learns from, and what each mismatch costs."""

    assigner: Assigner
    sampler: Sampler | None = Field(
        None,
        description="which priors are charged: random, for assigners other than rpn and proposal, which draw "
        "themselves; hard-example or hard-negative, by what they cost",
    )
    classification: Classification
    box: Box
    classification_weight: NonNegative = 1.0
    box_weight: NonNegative = 1.0
    soft_target: Literal["hard", "assignment", "iou"] = Field(
        "hard", description="class target of a positive: 1, the assigner's score, or the IoU of its decoded box"
    )


class TwoStageCriterionConfig(_WithoutOwn):
    """What each stage is trained by."""

    rpn: StageConfig
    roi: StageConfig


class TwoStageScheduleConfig(ScheduleConfig):
    """Learning rate over the epochs, and whether the stages are trained together or in turn."""

    regime: Literal["joint", "alternating"] = Field(
        "joint", description="alternating: proposals, regions, proposals and regions on a shared trunk, epochs each"
    )


class TwoStageRecipe(Recipe):
    """A system of two stages; to the engine a recipe like any other."""

    detector: TwoStageConfig  # type: ignore[assignment]
    criterion: TwoStageCriterionConfig  # type: ignore[assignment]
    schedule: TwoStageScheduleConfig


def build_two_stage_detector(
    recipe: TwoStageRecipe,
    class_names: Sequence[str],
    *,
    class_counts: Tensor | None = None,
    pretrained: bool | None = None,
) -> TwoStageDetector:
    """Build the detector that a recipe describes, with its criterion; arguments as in `build_detector`.

    Raises:
        RecipeError: parts do not fit together.
        RunError: the backbone or its weights cannot be had.
    """
    network, criterion = recipe.detector, build_two_stage_criterion(recipe, class_counts)
    backbone, neck, priors = build_trunk(network.backbone, network.neck, network.priors, pretrained=pretrained)
    own = sorted(network.backbone.levels)
    if len({*neck.channels[: len(own)]}) != 1:
        raise RecipeError(f"detector.neck: regions are read from levels of one width, got {neck.channels[: len(own)]}")
    softmax = is_softmax(recipe.criterion.rpn)
    head = build_head("detector.head", network.head, neck.channels, 1, priors.per_cell, softmax=softmax)
    return TwoStageDetector(
        backbone,
        neck,
        head,
        priors,
        network.proposals.build(),
        built(
            "detector.regions",
            network.regions,
            in_channels=neck.channels,
            levels=own,
            num_classes=len(class_names),
            background=is_softmax(recipe.criterion.roi),
        ),
        criterion,
        Postprocess(**network.inference.model_dump()),
        size=recipe.data.size,
        class_names=class_names,
    )


def build_two_stage_criterion(recipe: TwoStageRecipe, class_counts: Tensor | None = None) -> TwoStageCriterion:
    """Build a recipe's criterion alone; `class_counts` (C,) as in `build_detector`.

    Raises:
        RecipeError: parts do not fit together.
    """
    network, stages = recipe.detector, recipe.criterion
    if reasons := [*_misfits(recipe)]:
        raise RecipeError(f"recipe {recipe.name}: " + "; ".join(reasons))
    return TwoStageCriterion(
        rpn=_stage("criterion.rpn", stages.rpn, network.coder.build(), None),
        roi=_stage("criterion.roi", stages.roi, network.region_coder.build(), class_counts),
    )


def _stage(name: str, config: StageConfig, coder: BoxCoder, class_counts: Tensor | None) -> StageCriterion:
    classification = built(f"{name}.classification", config.classification)
    count_classes(f"{name}.classification", classification, class_counts)
    return StageCriterion(
        built(f"{name}.assigner", config.assigner),
        classification,
        built(f"{name}.box", config.box),
        coder,
        sampler=None if config.sampler is None else config.sampler.build(),
        classification_weight=config.classification_weight,
        box_weight=config.box_weight,
        soft_target=config.soft_target,
    )


def _misfits(recipe: TwoStageRecipe) -> Iterator[str]:
    network, stages = recipe.detector, recipe.criterion
    yield from of_head("detector.head", network.head, network)
    head: Any = type(network.head).factory
    if getattr(head, "rates_boxes", False):
        yield f"detector.head: the {network.head.type} head has a quality branch, for which there is no loss here"
    if network.region_coder.type != "delta":
        yield f"detector.region_coder: regions are relative to their proposal (delta), got {network.region_coder.type}"
    for name, stage, stage_head, coder in (
        ("rpn", stages.rpn, network.head, network.coder),
        ("roi", stages.roi, network.regions, network.region_coder),
    ):
        yield from (f"criterion.{name}.{reason}" for reason in of_losses(stage, stage_head, coder))
        if stage.classification.type in ("ap", "alrp", "rank-sort"):
            yield (
                f"criterion.{name}.classification: {stage.classification.type} ranks all priors of a batch, but "
                "a stage averages over a sample of each image"
            )
        if getattr(stage.sampler, "type", None) == "random" and hasattr(stage.assigner, "count"):
            yield f"criterion.{name}.sampler: the {stage.assigner.type} assigner samples already (its field count)"
    if stages.rpn.assigner.type in ("proposal", "dual"):
        yield f"criterion.rpn.assigner: {stages.rpn.assigner.type} does not match anchors of one head"
    own = "." in stages.roi.assigner.type and not getattr(stages.roi.assigner.factory, "needs_predictions", True)
    if not own and stages.roi.assigner.type not in ("proposal", "max-iou"):
        yield (
            f"criterion.roi.assigner: {stages.roi.assigner.type} needs priors on a grid, or predictions; proposals are "
            "matched by `proposal` or `max-iou`"
        )
