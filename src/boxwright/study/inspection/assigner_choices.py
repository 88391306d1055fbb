"""Which assigners are inspected, and in which steps of their main setting."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from boxwright.assigners import DualAssigner
from boxwright.errors import RecipeError
from boxwright.recipes.grid import GridRecipe
from boxwright.recipes.own import nearest
from boxwright.recipes.parts import Part, built, known_types
from boxwright.recipes.schema import Assigner, Recipe
from boxwright.recipes.two_stage import TwoStageRecipe
from boxwright.structures import Predictions
from boxwright.study.inspection.network import Outputs

__all__ = ["Choice", "Step", "choices"]

# The setting that decides most about each assigner, and values around the published ones.
_SWEEPS: Final[dict[str, tuple[str, tuple[float, ...]]]] = {
    "max-iou": ("positive_iou", (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)),
    "rpn": ("positive_iou", (0.4, 0.5, 0.6, 0.7, 0.8)),
    "ssd": ("positive_iou", (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)),
    "atss": ("topk", (3, 5, 7, 9, 11, 13, 15, 18)),
    "task-aligned": ("topk", (4, 7, 10, 13, 16, 20)),
    "dual": ("topk", (4, 7, 10, 13, 16, 20)),
    "simota": ("topk", (5, 10, 15, 20)),
    "dynamic-soft-label": ("topk", (5, 9, 13, 17)),
}
_USUAL: Final = ("max-iou", "atss", "ssd")
_MISPLACED: Final = {"proposal": "it matches the proposals of a first stage, which a recipe's priors are not"}
_ADAPTER: Final[TypeAdapter[Part]] = TypeAdapter(Assigner)


@dataclass(frozen=True, slots=True)
class Step:
    """One assigner to run: the value of its main setting (None: it has none), and the assigner."""

    value: float | None
    assigner: Any


@dataclass(frozen=True, slots=True)
class Choice:
    """An assigner in all its steps.

    Attributes:
        name: what the report calls it.
        setting: the argument that the steps change; None where there is nothing to change.
        steps: by rising value.
        usual: index of the step with the value that was asked for.
        stage: number of the network's stage whose predictions it looks at; None where it needs none.
    """

    name: str
    setting: str | None
    steps: tuple[Step, ...]
    usual: int
    stage: int | None = None

    @property
    def assigner(self) -> Any:
        """The assigner as it was asked for."""
        return self.steps[self.usual].assigner

    def predictions(self, outputs: Sequence[Outputs]) -> Predictions | None:
        """Return what the assigner looks at, of what every stage of the network says; None where it needs nothing."""
        return None if self.stage is None else outputs[self.stage].for_assigner


def choices(
    recipe: Recipe, names: Sequence[str] | None = None, *, stages: Sequence[str] = (), sweep: bool = True
) -> list[Choice]:
    """Build the assigners to inspect, the recipe's own first.

    One that looks at predictions appears once for each stage of a network; without one a recipe's own is left out.

    Args:
        recipe: names its assigners, and priors that all of them see.
        names: recipe names of assigners, optionally with arguments: `atss`, `max-iou:low_quality=none`; None takes
            those that are used most and need no predictions.
        stages: names of the stages of a network, whose predictions there are.
        sweep: also run every assigner with other values of its main setting.

    Raises:
        RecipeError: an assigner is unknown, does not validate, does not fit, or looks at predictions without a network.
    """
    if isinstance(recipe, GridRecipe):
        raise RecipeError(f"recipe {recipe.name}: its criterion has no assigner that could be exchanged; name another")
    parts = dict(_of_recipe(recipe))
    for text in _USUAL if names is None else names:
        part = _parse(text)
        if part not in parts.values():
            parts[text] = part
    found = []
    for name, part in parts.items():
        if reason := _MISPLACED.get(part.type):
            raise RecipeError(f"assigner {name!r} cannot be inspected, because {reason}")
        if not getattr(built(f"assigner {name!r}", part), "needs_predictions", True):
            found.append(_choice(name, part, sweep))
        elif stages:
            found += [
                replace(choice, name=f"{choice.name}, {moment}", stage=number)
                for number, moment in enumerate(stages)
                for choice in _branches(name, part, sweep)
            ]
        elif names is not None and name in names:
            raise RecipeError(
                f"assigner {name!r} looks at predictions, and there are none before a training; name a run (--run)"
            )
    return found


def _of_recipe(recipe: Recipe) -> Iterator[tuple[str, Part]]:
    if isinstance(recipe, TwoStageRecipe):  # the recipe's priors are those of its first stage
        assigner = recipe.criterion.rpn.assigner
        yield f"{assigner.type} (of {recipe.name})", assigner
        return
    own, first = recipe.criterion.assigner, recipe.criterion.first
    yield f"{own.type} (of {recipe.name})", own
    if first is not None:
        yield f"{first.assigner.type} (first epochs of {recipe.name})", first.assigner


def _parse(text: str) -> Part:
    name, *arguments = text.split(":")
    values: dict[str, Any] = {"type": name}
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if not separator:
            raise RecipeError(f"assigner {text!r} must read NAME or NAME:KEY=VALUE:…, got {argument!r}")
        values[key] = value
    try:
        return _ADAPTER.validate_python(values)
    except ValidationError as error:
        problem = error.errors()[0]
        if problem["type"] == "union_tag_invalid":
            raise RecipeError(f"unknown assigner {name!r}; {nearest(name, known_types(problem))}") from error
        where = ".".join(str(part) for part in problem["loc"] if part != name)
        said = problem["msg"].removeprefix("Value error, ")
        raise RecipeError(f"assigner {text!r}: {where + ': ' if where else ''}{said}") from error


def _choice(name: str, part: Part, sweep: bool) -> Choice:
    setting, values = _SWEEPS.get(part.type, (None, ()))
    if not sweep or setting is None:
        own = getattr(part, setting) if setting else None
        return Choice(name, setting, (Step(own, part.build()),), 0)
    own = getattr(part, setting)
    values = tuple(sorted({*values, own}))
    return Choice(name, setting, tuple(Step(v, _changed(part, setting, v).build()) for v in values), values.index(own))


def _branches(name: str, part: Part, sweep: bool) -> list[Choice]:
    """Return one choice, or of an assigner with two branches one for each."""
    choice = _choice(name, part, sweep)
    if not isinstance(choice.assigner, DualAssigner):
        return [choice]
    many = tuple(Step(step.value, step.assigner.branch(step.assigner.topk)) for step in choice.steps)
    one = (Step(None, choice.assigner.branch(1)),)
    return [
        replace(choice, name=f"{name}, one-to-many", steps=many),
        Choice(f"{name}, one-to-one", None, one, 0),
    ]


def _changed(part: Part, setting: str, value: float) -> Part:
    """Set a threshold or k; a background threshold above a lower positive one would leave priors that are both."""
    changes: dict[str, Any] = {setting: value}
    if setting == "positive_iou" and (below := getattr(part, "negative_iou", None)) is not None:
        changes["negative_iou"] = min(below, value)
    return part.model_copy(update=changes)
