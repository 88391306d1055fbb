"""Changes of a recipe's values before they are validated, and what another `type` leaves of a section."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from boxwright.errors import RecipeError
from boxwright.recipes.schema import FirstEpochs, PhasedCriterionConfig, Recipe
from boxwright.recipes.training import OptimizerConfig
from boxwright.recipes.two_stage import TwoStageCriterionConfig, TwoStageScheduleConfig

__all__ = ["Swap", "merged", "override"]

# Fields that outlive another `type`, as all kinds of the section read them alike. Parts have none: their fields are the
# arguments of a class, and those of another class mean something else by the same name (`alpha` of a focal and of a
# varifocal loss, `topk` of ATSS and of TOOD).
_SHARED = {
    ("optimizer",): OptimizerConfig.shared(),
    ("schedule",): TwoStageScheduleConfig.shared(),
    ("criterion",): PhasedCriterionConfig.model_fields.keys() | TwoStageCriterionConfig.model_fields.keys(),
    ("criterion", "first"): FirstEpochs.model_fields.keys(),
}
_UNNAMED = {"criterion": "dense", "first": "dense"}  # type of a section that does not say it


class Swap(NamedTuple):
    """A section that became one of another `type`: where it is in a recipe, and what was there (maybe nothing)."""

    path: tuple[str, ...]
    old: dict[str, Any]

    def describe(self, recipe: Recipe) -> str:
        """Say in one line what came, what went, and whether the rest stayed, by the recipe that was made of it."""
        new: Any = recipe.model_dump(mode="json")
        for name in self.path:
            new = new[name]
        shared = _SHARED.get(self.path, frozenset())
        line = f"{'.'.join(self.path)}: {self._kind(new, shared)}"
        if self.old:
            line += f" instead of {self._kind(self.old, shared)}"
        return line + ("; its other fields stay" if any(name in shared for name in self.old) else "")

    def _kind(self, section: Mapping[str, Any], shared: Any) -> str:
        own = {name: value for name, value in section.items() if name != "type" and name not in shared}
        words = ", ".join(f"{name} {json.dumps(value, ensure_ascii=False)}" for name, value in own.items())
        return section.get("type", _UNNAMED.get(self.path[-1], "?")) + (f" ({words})" if words else "")


def merged(base: dict[str, Any], changes: dict[str, Any], path: tuple[str, ...] = ()) -> dict[str, Any]:
    """Lay changes over a base, section by section; of one that becomes another `type` only shared fields stay."""
    result = dict(base)
    for key, value in changes.items():
        old, where = result.get(key), (*path, key)
        result[key] = value
        if isinstance(old, dict) and isinstance(value, dict):
            same = value.get("type") in (None, old.get("type"))
            result[key] = merged(old if same else _kept(where, old), value, where)
    return result


def override(values: dict[str, Any], text: str) -> Swap | None:
    """Carry out one assignment such as `criterion.box.type=ciou`, in place; return the swap that it was, if it was one.

    Raises:
        RecipeError: it does not read so, or its value is not YAML.
    """
    key, separator, written = text.partition("=")
    if not separator or not key:
        raise RecipeError(f"override {text!r} must read key=value, for example criterion.box.type=giou")
    *parents, leaf = key.split(".")
    section: Any = values
    for depth, parent in enumerate(parents):
        if section.get(parent) is None:
            section[parent] = {}
        section = section[parent]
        if not isinstance(section, dict):
            raise RecipeError(f"override {text!r}: {'.'.join(parents[: depth + 1])} is a value, not a section")
    try:
        value = yaml.safe_load(written)
    except yaml.YAMLError as error:
        raise RecipeError(f"override {text!r}: the value is not valid YAML: {error}") from error
    old, swaps = dict(section), leaf == "type" and section.get("type") != value
    if swaps:
        section.clear()
        section.update(_kept(tuple(parents), old))
    section[leaf] = value
    return Swap(tuple(parents), old) if swaps else None


def _kept(path: tuple[str, ...], section: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in section.items() if name in _SHARED.get(path, ())}
