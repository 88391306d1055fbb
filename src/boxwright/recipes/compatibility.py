"""Which parts of a recipe fit together; those that do not are refused before anything is built."""

from collections.abc import Iterator
from typing import Any

from boxwright.errors import RecipeError
from boxwright.recipes.parts import Part
from boxwright.recipes.schema import CriterionConfig, DetectorConfig, Recipe

__all__ = ["check_parts"]

_MISPLACED = {
    "dual": "it matches twice, for a head with two branches",
    "proposal": "it matches the proposals of a first stage",
}


def check_parts(recipe: Recipe) -> None:
    """Refuse a recipe whose parts cannot work together.

    Raises:
        RecipeError: names the part and says why.
    """
    criteria: list[tuple[str, CriterionConfig]] = [("criterion", recipe.criterion)]
    if recipe.criterion.first is not None:
        criteria.append(("criterion.first", recipe.criterion.first))
    network = recipe.detector
    reasons = [*_of_head("detector.head", network.head, network)]
    if network.guide is not None:
        reasons += _of_head("detector.guide.head", network.guide.head, network)
    for name, criterion in criteria:
        reasons += [f"{name}.{reason}" for reason in _of_criterion(criterion, network)]
    if reasons:
        raise RecipeError(f"recipe {recipe.name}: " + "; ".join(reasons))


def _of_head(name: str, head: Any, network: DetectorConfig) -> Iterator[str]:
    parts: tuple[Any, Any] = (network.coder, network.priors)
    coder, priors = parts
    bins = getattr(head, "reg_max", None)
    if (coder.type == "integral") != (bins is not None):
        what = "predicts 4 parameters" if bins is None else "predicts distributions, which only `integral` reads"
        yield f"detector.coder: {coder.type} does not fit the {head.type} head, which {what}"
    elif bins is not None and bins != coder.reg_max:
        yield f"detector.coder.reg_max is {coder.reg_max} but {name}.reg_max is {bins}"
    if head.type == "tood":
        if coder.type != "distance":
            yield f"detector.coder: the tood head predicts distances (`distance`), got {coder.type}"
        if head.offset != priors.offset:
            yield f"{name}.offset is {head.offset} but detector.priors.offset is {priors.offset}"


def _of_criterion(criterion: CriterionConfig, network: DetectorConfig) -> Iterator[str]:
    head, integral = network.head, network.coder.type == "integral"
    if reason := _MISPLACED.get(criterion.assigner.type):
        yield f"assigner: {criterion.assigner.type} does not fit, because {reason}"
    if hasattr(criterion.classification, "background"):
        yield (
            f"classification: {criterion.classification.type} needs a column for background beside the classes, "
            f"which the {head.type} head does not have"
        )
    if not getattr(criterion.classification, "from_logits", True):
        yield f"classification.from_logits: the {head.type} head gives logits, not probabilities"
    space = _class_of(criterion.box).space
    if space == "gaussian" and not getattr(head, "variance", False):
        yield f"box: {criterion.box.type} needs a head that predicts variances (retina with variance: true)"
    if integral and space in ("deltas", "gaussian"):
        yield f"box: {criterion.box.type} compares 4 encoded parameters, which the integral coder does not have"
    if criterion.distribution is not None and not integral:
        yield f"distribution: needs distributions, but detector.coder is {network.coder.type}, not integral"
    rated = getattr(_class_of(head), "rates_boxes", False)
    if criterion.quality is not None and not rated:
        yield f"quality: the {head.type} head has no quality branch"
    if criterion.quality is None and rated:
        yield f"quality: the {head.type} head has a quality branch, which needs a loss (such as sigmoid-cross-entropy)"


def _class_of(part: Part) -> Any:
    return type(part).factory
