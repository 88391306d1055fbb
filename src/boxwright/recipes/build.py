"""From a recipe to a detector."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from boxwright.criteria import DenseCriterion, PhasedCriterion, TwoStageCriterion
from boxwright.criteria.dense import BoxCoder
from boxwright.errors import RecipeError
from boxwright.models import DenseDetector, Guide, Postprocess
from boxwright.recipes.compatibility import check_parts, is_softmax, kind_of
from boxwright.recipes.grid import GridRecipe, build_grid_detector
from boxwright.recipes.parts import built, constructed, count_classes
from boxwright.recipes.schema import CriterionConfig, Recipe
from boxwright.recipes.trunk import build_head, build_trunk
from boxwright.recipes.two_stage import TwoStageRecipe, build_two_stage_criterion, build_two_stage_detector

__all__ = ["build_criterion", "build_detector"]

_PARTS = ("assigner", "classification", "box", "sampler", "distribution", "quality")
_OPTIONS = tuple(CriterionConfig.model_fields.keys() - {*_PARTS, "type", "balance"})


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
    if isinstance(recipe, TwoStageRecipe):
        return build_two_stage_detector(recipe, class_names, class_counts=class_counts, pretrained=pretrained)
    network = recipe.detector
    backbone, neck, priors = build_trunk(network.backbone, network.neck, network.priors, pretrained=pretrained)
    softmax = is_softmax(recipe.criterion)
    head = build_head("detector.head", network.head, neck.channels, len(class_names), priors.per_cell, softmax=softmax)
    guide = None
    if network.guide is not None:
        both = [2 * channels for channels in neck.channels]
        guide_head = build_head("detector.guide.head", network.guide.head, both, len(class_names), priors.per_cell)
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


def build_criterion(
    recipe: Recipe, class_counts: Tensor | None = None
) -> DenseCriterion | PhasedCriterion | TwoStageCriterion:
    """Build a recipe's criterion alone; `class_counts` (C,) as in `build_detector`.

    Raises:
        RecipeError: parts do not fit together.
    """
    if isinstance(recipe, TwoStageRecipe):
        return build_two_stage_criterion(recipe, class_counts)
    check_parts(recipe)
    config, coder = recipe.criterion, recipe.detector.coder.build()
    then = _dense(config, coder, class_counts)
    if config.first is None:
        return then
    return PhasedCriterion(_dense(config.first, coder, class_counts), then, config.first.epochs)


def _dense(config: CriterionConfig, coder: BoxCoder, class_counts: Tensor | None) -> DenseCriterion:
    chosen = {name: part for name in _PARTS if (part := getattr(config, name)) is not None}
    parts = {name: built(f"criterion.{name}", part) for name, part in chosen.items()}
    count_classes("criterion.classification", parts["classification"], class_counts)
    options = {name: getattr(config, name) for name in (*_OPTIONS, *config.added)}
    try:
        criterion: DenseCriterion = constructed(
            config.factory or kind_of(config), config.type, **parts, coder=coder, **options
        )
    except ValueError as error:
        raise RecipeError(f"criterion: {error}") from error
    if config.factory is not None:
        _check_handed_on(criterion, config.type, parts | {name: options[name] for name in _OPTIONS})
    return criterion


def _check_handed_on(criterion: DenseCriterion, path: str, given: Mapping[str, Any]) -> None:
    """Refuse a class of the user's own that keeps something of a recipe from `DenseCriterion`."""
    for name, value in given.items():
        found = getattr(criterion, name, None)
        if found != value and not (name == "box" and type(found) is type(value)):  # aLRP's is a copy
            raise RecipeError(
                f"criterion: {path} was given {name}={value!r}, but has {found!r}: hand *parts and **options on to "
                "super().__init__, or change the recipe's field"
            )
