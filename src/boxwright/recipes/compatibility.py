"""Which parts of a recipe fit together; those that do not are refused before anything is built."""

from collections.abc import Iterator
from inspect import Parameter, signature
from typing import Any

from boxwright.criteria import ALRPCriterion, BalancedCriterion, DenseCriterion
from boxwright.errors import RecipeError
from boxwright.recipes.parts import Part
from boxwright.recipes.schema import CriterionConfig, DetectorConfig, PhasedCriterionConfig, Recipe

__all__ = ["check_parts", "is_softmax", "kind_of", "of_head", "of_losses", "remarks"]

_KINDS = (ALRPCriterion, BalancedCriterion, DenseCriterion)
_MISPLACED = {
    "dual": "it matches twice, for a head with two branches",
    "proposal": "it matches the proposals of a first stage",
}


def check_parts(recipe: Recipe) -> None:
    """Refuse a recipe whose parts cannot work together.

    Raises:
        RecipeError: names the part and says why.
    """
    criteria, network = _criteria(recipe), recipe.detector
    reasons = [*of_head("detector.head", network.head, network)]
    if network.guide is not None:
        reasons += of_head("detector.guide.head", network.guide.head, network)
    for name, criterion in criteria:
        reasons += [f"{name}.{reason}" for reason in _of_criterion(criterion, network)]
    if reasons:
        raise RecipeError(f"recipe {recipe.name}: " + "; ".join(reasons))
    if len({is_softmax(criterion) for _, criterion in criteria}) == 2:
        pair = " and ".join(criterion.classification.type for _, criterion in criteria)
        raise RecipeError(f"recipe {recipe.name}: {pair} cannot follow each other: one is a softmax, the other is not")


def remarks(recipe: Recipe) -> Iterator[str]:
    """Name settings that have no effect, or not the one they seem to have, together with another part of the recipe."""
    if recipe.schedule.type == "step" and not recipe.schedule.milestones:
        yield "schedule.milestones is empty: the learning rate does not fall"
    parts = recipe.train.accumulate
    for name, criterion in _criteria(recipe):
        loss, target = criterion.classification.type, criterion.soft_target
        if loss in ("ap", "alrp") and target != "hard":
            yield (
                f"{name}.soft_target={target} does not reach the classes, as {loss} ranks all positives alike: set it "
                "to hard, or take rank-sort, which sorts by it"
            )
        if parts > 1 and (reasons := [*_of_each_batch(criterion)]):
            yield (
                f"train.accumulate={parts} is not quite one batch of data.batch_size={recipe.data.batch_size}: each "
                f"micro-batch by itself is what {name} {' and '.join(reasons)}"
            )


def _of_each_batch(criterion: CriterionConfig) -> Iterator[str]:
    """Say what of a criterion depends on the other images of a batch by more than the number of positives."""
    loss, target = criterion.classification.type, criterion.soft_target
    if loss in ("ap", "alrp", "rank-sort"):
        yield f"ranks ({loss})"
    if any(part.type in ("ghmc", "ghmr") for part in (criterion.classification, criterion.box)):
        yield "counts gradients in (ghm)"
    uncounted = target == "iou" or (target == "assignment" and not criterion.sum_targets)
    if criterion.weigh_boxes != "target" or uncounted:
        yield f"sums box weights over (weigh_boxes={criterion.weigh_boxes})"


def kind_of(criterion: CriterionConfig) -> type[DenseCriterion]:
    """Which of boxwright's criteria the fields of a dense criterion ask for."""
    if criterion.classification.type == "alrp":
        return ALRPCriterion
    return BalancedCriterion if criterion.balance == "value" else DenseCriterion


def is_softmax(criterion: Any) -> bool:
    """Whether the classes and background are one softmax, for which a head needs a column more."""
    return hasattr(criterion.classification, "background")


def of_head(name: str, head: Any, network: Any) -> Iterator[str]:
    """Say what of a dense head does not fit the coder and the priors of its network."""
    coder, priors = network.coder, network.priors
    bins, read = getattr(head, "reg_max", None), getattr(coder, "reg_max", None)
    if (bins is None) != (read is None):
        what = "4 parameters" if bins is None else "distributions, which only `integral` and `fine-grained` read"
        yield f"detector.coder: {coder.type} does not fit the {head.type} head, which predicts {what}"
    elif bins != read:
        yield f"detector.coder.reg_max is {read} but {name}.reg_max is {bins}"
    if head.type == "tood":
        if coder.type != "distance":
            yield f"detector.coder: the tood head predicts distances (`distance`), got {coder.type}"
        offset = getattr(priors, "offset", 0.5)
        if head.offset != offset:
            yield f"{name}.offset is {head.offset} but detector.priors.offset is {offset}"


def _criteria(recipe: Recipe) -> list[tuple[str, CriterionConfig]]:
    """Criteria of a dense system, with their names; others have stages, or none."""
    if not isinstance(recipe.criterion, PhasedCriterionConfig):
        return []
    first = recipe.criterion.first
    return [("criterion", recipe.criterion), *([("criterion.first", first)] if first is not None else [])]


def _of_criterion(criterion: CriterionConfig, network: DetectorConfig) -> Iterator[str]:
    head: Any = network.head
    coder: Any = network.coder
    if reason := _MISPLACED.get(criterion.assigner.type):
        yield f"assigner: {criterion.assigner.type} does not fit, because {reason}"
    if network.guide is not None:
        yield from _of_guide(criterion)
    if criterion.classification.type == "alrp" and criterion.balance == "value":
        yield "balance: alrp balances boxes and scores itself; it needs balance=none"
    if (own := criterion.factory) is not None:
        wanted, base = kind_of(criterion), next(cls for cls in _KINDS if issubclass(own, cls))
        if base is not wanted:
            yield (
                f"type: {criterion.type} is a {base.__name__}, but classification={criterion.classification.type} with "
                f"balance={criterion.balance} needs a {wanted.__name__}: derive it from that, or change these fields"
            )
    yield from of_losses(criterion, head, coder)
    if criterion.distribution is not None:
        yield from _of_distribution(criterion.distribution, coder)
    rated = getattr(_class_of(head), "rates_boxes", False)
    if criterion.quality is not None and hasattr(criterion.quality, "background"):
        yield f"quality: {criterion.quality.type} compares classes, but a quality is one number per prior"
    if criterion.quality is not None and not _takes_weight(_class_of(criterion.quality)):
        yield f"quality: {criterion.quality.type} takes no weight, and a quality is charged for the positives alone"
    if criterion.quality is not None and not rated:
        yield f"quality: the {head.type} head has no quality branch"
    if criterion.quality is None and rated:
        yield f"quality: the {head.type} head has a quality branch, which needs a loss (such as sigmoid-cross-entropy)"


def _of_guide(criterion: CriterionConfig) -> Iterator[str]:
    """Say what of a criterion charges more than the logits and parameters that a guide has."""
    name = criterion.classification.type
    if is_softmax(criterion):
        yield f"classification: {name} needs a column for background, which the guide does not have"
    if name == "alrp":
        yield f"classification: {name} ranks the scores of one head, and the guide is a second one"
    if criterion.quality is not None:
        yield "quality: the guide has no quality branch"
    if _class_of(criterion.box).space == "gaussian":
        yield f"box: {criterion.box.type} needs variances, which the guide does not predict"


def of_losses(criterion: Any, head: Any, coder: Any) -> Iterator[str]:
    """Say what of a criterion's classification and box loss does not fit a head and the coder of its boxes."""
    classification = criterion.classification
    if is_softmax(criterion):
        if head.type == "tood" or getattr(head, "quality", False):
            yield (
                f"classification: {classification.type} needs a column for background beside the classes, which the "
                f"{head.type} head does not have: its scores are products of sigmoids"
            )
        if classification.background != "last":
            yield f"classification.background: a detector has background last, got {classification.background}"
    if not getattr(classification, "from_logits", True):
        yield f"classification.from_logits: the {head.type} head gives logits, not probabilities"
    space = _class_of(criterion.box).space
    if space == "gaussian" and not getattr(head, "variance", False):
        yield f"box: {criterion.box.type} needs a head that predicts variances (retina with variance: true)"
    if hasattr(coder, "reg_max") and space in ("deltas", "gaussian"):
        yield f"box: {criterion.box.type} compares 4 encoded parameters, which the {coder.type} coder does not have"


def _of_distribution(loss: Any, coder: Any) -> Iterator[str]:
    fitting = "fine-grained" if loss.type == "fine-grained-localization" else "integral"
    if coder.type != fitting:
        yield f"distribution: {loss.type} compares the distributions of the {fitting} coder, got {coder.type}"
    elif fitting == "fine-grained" and (loss.bins, loss.up, loss.scale) != (coder.reg_max, coder.up, coder.scale):
        yield (
            f"distribution: bins={loss.bins}, up={loss.up}, scale={loss.scale} must be the coder's "
            f"reg_max={coder.reg_max}, up={coder.up}, scale={coder.scale}"
        )


def _takes_weight(loss: Any) -> bool:
    """Whether a module may be called with `weight=`; an annotation of None says that it takes nothing else."""
    parameters = signature(loss.forward).parameters
    if "weight" in parameters:
        return parameters["weight"].annotation not in (None, "None")
    return any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values())


def _class_of(part: Part) -> Any:
    return type(part).factory
