"""The recipes of a comparison: what is held fixed for all of them, and where they still differ."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from boxwright.engine.loop import seed_everything
from boxwright.errors import RecipeError
from boxwright.recipes import Recipe, build_detector, dump_recipe, load_recipe
from boxwright.recipes.load import changed_recipe, validate_recipe

__all__ = ["HELD", "Contestant", "contestants", "shortened", "with_seed"]

HELD: Final = ("data", "optimizer", "schedule", "train", "detector.backbone")
_EVALUATIONS: Final = 10  # points of a learning curve


@dataclass(frozen=True)
class Contestant:
    """A recipe of a comparison.

    Attributes:
        name: unique in the comparison.
        recipe: as it is trained, but for the seed.
        copy: how many of the recipes before it are the same; its seeds follow theirs.
        held: fields of its own that were replaced by those of the first recipe, `field: own → now`.
        differs: fields beyond the criterion in which it differs from the first recipe, `field: first → own`.
    """

    name: str
    recipe: Recipe
    copy: int
    held: tuple[str, ...]
    differs: tuple[str, ...]


def contestants(
    recipes: Sequence[str | Path], overrides: Sequence[str] = (), say: Callable[[str], None] = lambda _: None
) -> list[Contestant]:
    """Read recipes and hold everything but the criterion fixed.

    Sections `data`, `optimizer`, `schedule` and `train` and the backbone of all are those of the first recipe. Neck,
    head, priors, coder and inference stay a recipe's own, because its criterion is made for them; they are listed where
    they differ. Epochs at which a recipe changes its own ways (`criterion.first`, `detector.guide`) keep their share of
    the training. All are evaluated ten times in a training, unless `overrides` say otherwise.

    `say` is called with a line for every override that names another `type`, as that of `load_recipe`.

    Raises:
        RecipeError: a recipe is unknown, does not validate, or cannot take the first recipe's sections.
    """
    if not recipes:
        raise RecipeError("a comparison needs recipes: --recipes retinanet-tiny,gfl-tiny")
    loaded = [_loaded(str(name), overrides, say) for name in recipes]
    if not any(override.startswith("train.eval_every=") for override in overrides):
        often = max(1, loaded[0].schedule.epochs // _EVALUATIONS)
        loaded = [changed_recipe(recipe, {"train": {"eval_every": often}}) for recipe in loaded]
    first, called = loaded[0], Counter(own.name for own in loaded)
    names, seen, result = Counter[str](), Counter[str](), []
    for source, own in zip(recipes, loaded, strict=True):
        recipe = _held(first, own)
        text = dump_recipe(recipe)
        name = own.name if called[own.name] == 1 else Path(source).stem  # files that build on one recipe share its name
        names[name] += 1
        result.append(
            Contestant(
                name if names[name] == 1 else f"{name}-{names[name]}",
                recipe,
                seen[text],
                tuple(_differences(own, recipe, HELD)) if own is not loaded[0] else (),
                tuple(_differences(first, recipe, ("detector",))),
            )
        )
        seen[text] += 1
    return result


def with_seed(recipe: Recipe, seed: int) -> Recipe:
    """Return the recipe with another seed."""
    return changed_recipe(recipe, {"train": {"seed": seed}})


def shortened(recipe: Recipe, epochs: int) -> Recipe:
    """Return the recipe with another number of epochs; everything that is counted in epochs keeps its share."""
    share = epochs / recipe.schedule.epochs
    schedule: dict[str, Any] = {"epochs": epochs}
    if recipe.schedule.milestones:
        schedule["milestones"] = sorted({_part(epoch, share, epochs) for epoch in recipe.schedule.milestones})
    if epochs == 1:
        schedule["milestones"] = []
    train = {"eval_every": max(1, min(epochs, round(recipe.train.eval_every * share)))}
    return changed_recipe(_own_phases(recipe, share, epochs), {"schedule": schedule, "train": train})


def shared_weights(recipes: Sequence[Recipe], classes: Sequence[str]) -> list[tuple[int, int]]:
    """Build every recipe from its seed; return how many parameters start as in the first, and how many there are."""
    starts = []
    for recipe in recipes:
        with torch.random.fork_rng():
            seed_everything(recipe.train.seed)
            starts.append(dict(build_detector(recipe, classes, pretrained=False).named_parameters()))
    same = [
        sum(value.numel() for name, value in start.items() if name in starts[0] and torch.equal(value, starts[0][name]))
        for start in starts
    ]
    return [(equal, sum(value.numel() for value in start.values())) for equal, start in zip(same, starts, strict=True)]


def _loaded(name: str, overrides: Sequence[str], say: Callable[[str], None]) -> Recipe:
    recipe = load_recipe(name, overrides, say=lambda line: say(f"{name}: {line}"))
    if any(override.startswith(("criterion.first", "detector.guide")) for override in overrides):
        return recipe
    return _own_phases(recipe, recipe.schedule.epochs / load_recipe(name).schedule.epochs, recipe.schedule.epochs)


def _own_phases(recipe: Recipe, share: float, epochs: int) -> Recipe:
    changes: dict[str, Any] = {}
    if (first := getattr(recipe.criterion, "first", None)) is not None:
        changes["criterion"] = {"first": {"epochs": _part(first.epochs, share, epochs)}}
    if (guide := getattr(recipe.detector, "guide", None)) is not None:
        changes["detector"] = {"guide": {"detach_epoch": _part(guide.detach_epoch, share, epochs)}}
    return changed_recipe(recipe, changes)


def _part(epoch: int, share: float, epochs: int) -> int:
    return min(max(1, round(epoch * share)), max(1, epochs - 1))


def _held(first: Recipe, own: Recipe) -> Recipe:
    """Return a recipe with the sections `HELD` of the first."""
    given, values = first.model_dump(mode="json"), own.model_dump(mode="json")
    for section in HELD[:-1]:
        values[section] = given[section]
    if "backbone" in given["detector"] and "backbone" in values["detector"]:
        values["detector"]["backbone"] = given["detector"]["backbone"]
    return validate_recipe(values, f"recipe {own.name}, in a comparison")


def _differences(old: Recipe, new: Recipe, sections: Sequence[str]) -> list[str]:
    """List fields below some sections that differ, `field: old → new`; of a part of another type, only its type."""
    before, after = (_flat(recipe.model_dump(mode="json")) for recipe in (old, new))
    fields = [field for field in before | after if field.startswith(tuple(f"{section}." for section in sections))]
    changed = [field for field in fields if before.get(field) != after.get(field)]
    parts = tuple(field.removesuffix("type") for field in changed if field.endswith(".type"))
    named = [field for field in changed if field.endswith(".type") or not field.startswith(parts)]
    return [f"{field}: {before.get(field, '–')} → {after.get(field, '–')}" for field in named]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
