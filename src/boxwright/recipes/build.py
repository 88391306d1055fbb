"""From a recipe to a detector."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from boxwright.criteria import ALRPCriterion, BalancedCriterion, DenseCriterion, PhasedCriterion
from boxwright.criteria.dense import BoxCoder
from boxwright.errors import RecipeError
from boxwright.losses import ALRPLoss, ClassificationLoss
from boxwright.models import Backbone, DenseDetector, Guide, Postprocess
from boxwright.models.heads import WithBackground
from boxwright.recipes.compatibility import check_parts, is_softmax
from boxwright.recipes.grid import GridRecipe, build_grid_detector
from boxwright.recipes.parts import Part
from boxwright.recipes.schema import CriterionConfig, Recipe

__all__ = ["build_criterion", "build_detector"]

_PARTS = ("assigner", "classification", "box", "sampler", "distribution", "quality")
_OPTIONS = tuple(CriterionConfig.model_fields.keys() - {*_PARTS, "balance"})


def build_detector(
    recipe: Recipe,
    class_names: Sequence[str],
    *,
    class_counts: Tensor | None = None,
    pretrained: bool | None = None,
) -> DenseDetector:
    """Build the detector that a recipe describes, with its criterion.

    Args:
        recipe: the recipe.
        class_names: names of the classes to detect.
        class_counts: (C,) objects of each class in the training data, for recipes that weigh classes by them; without
            it (to predict only) classes are not weighed.
        pretrained: False builds without loading backbone weights (they are about to be replaced by a checkpoint's).

    Raises:
        RecipeError: parts do not fit together.
        RunError: the backbone or its weights cannot be had.
    """
    if isinstance(recipe, GridRecipe):
        return build_grid_detector(recipe, class_names, pretrained=pretrained)
    network = recipe.detector
    options = network.backbone.model_dump()
    if pretrained is False:
        options |= {"pretrained": False, "weights": None}
    backbone = Backbone(**options)
    neck = _built("detector.neck", network.neck, in_channels=backbone.channels)
    first = min(network.backbone.levels)
    strides = tuple(float(2 ** (first + index)) for index in range(len(neck.channels)))
    priors = _built("detector.priors", network.priors, strides=strides)
    softmax = is_softmax(recipe.criterion)
    part: Any = network.head
    head = _head("detector.head", part, neck.channels, len(class_names) + softmax, priors.per_cell)
    if softmax:
        head = WithBackground(head, len(class_names), part.prior_probability)
    guide = None
    if network.guide is not None:
        both = [2 * channels for channels in neck.channels]
        guide_head = _head("detector.guide.head", network.guide.head, both, len(class_names), priors.per_cell)
        guide = Guide(neck, guide_head, network.guide.detach_epoch)
    return DenseDetector(
        backbone,
        neck,
        head,
        priors,
        build_criterion(recipe, class_counts),
        Postprocess(**network.inference.model_dump()),
        size=recipe.data.size,
        class_names=class_names,
        guide=guide,
    )


def build_criterion(recipe: Recipe, class_counts: Tensor | None = None) -> DenseCriterion | PhasedCriterion:
    """Build a recipe's criterion alone; `class_counts` (C,) as in `build_detector`.

    Raises:
        RecipeError: parts do not fit together.
    """
    check_parts(recipe)
    config, coder = recipe.criterion, recipe.detector.coder.build()
    then = _dense(config, coder, class_counts)
    if config.first is None:
        return then
    return PhasedCriterion(_dense(config.first, coder, class_counts), then, config.first.epochs)


def _dense(config: CriterionConfig, coder: BoxCoder, class_counts: Tensor | None) -> DenseCriterion:
    chosen = {name: part for name in _PARTS if (part := getattr(config, name)) is not None}
    parts = {name: _built(f"criterion.{name}", part) for name, part in chosen.items()}
    if class_counts is not None and isinstance(parts["classification"], ClassificationLoss):
        parts["classification"].count_classes(class_counts)
    options = {name: getattr(config, name) for name in _OPTIONS}
    kind = BalancedCriterion if config.balance == "value" else DenseCriterion
    if isinstance(parts["classification"], ALRPLoss):
        kind = ALRPCriterion
    try:
        return kind(**parts, coder=coder, **options)
    except ValueError as error:
        raise RecipeError(f"criterion: {error}") from error


def _built(field: str, part: Part, **context: Any) -> Any:
    try:
        return part.build(**context)
    except ValueError as error:
        raise RecipeError(f"{field}: {error}") from error


def _head(field: str, part: Part, in_channels: Sequence[int], num_classes: int, per_cell: Sequence[int]) -> nn.Module:
    counts: Sequence[int] | int = per_cell
    if not getattr(type(part).factory, "per_level", False):
        if len(set(per_cell)) != 1:
            raise RecipeError(
                f"detector.priors: the {part.type} head needs equal anchors per cell on all levels, got {per_cell}"
            )
        counts = per_cell[0]
    head: nn.Module = _built(field, part, in_channels=in_channels, num_classes=num_classes, priors_per_cell=counts)
    return head
