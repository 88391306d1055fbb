"""Reads recipes by name or file, with overrides, and writes them back."""

import difflib
import re
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from boxwright.errors import RecipeError
from boxwright.recipes.cfg import recipe_values
from boxwright.recipes.grid import GridRecipe
from boxwright.recipes.overrides import merged, override
from boxwright.recipes.own import nearest
from boxwright.recipes.parts import Section, known_types
from boxwright.recipes.schema import CriterionConfig, Recipe
from boxwright.recipes.two_stage import StageConfig, TwoStageRecipe

__all__ = ["changed_recipe", "dump_recipe", "load_recipe", "parse_recipe", "recipe_names", "validate_recipe"]

_KINDS: dict[str, type[Recipe]] = {"darknet": GridRecipe, "two-stage": TwoStageRecipe}  # by detector.type
_ELSEWHERE: dict[type[Recipe], tuple[type[Section], str]] = {  # keys of a dense criterion, and where they went
    GridRecipe: (
        CriterionConfig,
        "darknet's rule matches and charges in one, so that its parts cannot be swapped; dense recipes such as "
        "retinanet have criterion.{key}",
    ),
    TwoStageRecipe: (StageConfig, "each stage has its own: criterion.rpn.{key} and criterion.roi.{key}"),
}
_FOLDER = resources.files("boxwright.recipes") / "library"
_OPEN = ("assigner", "classification", "box", "distribution", "quality")  # to classes of the user's own
_USUAL = {"lr": "0.01 for sgd, 0.001 for adamw", "weight_decay": "0.0001 for sgd, 0.05 for adamw"}
_WANTED = {  # by pydantic's name of the problem
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "an integer"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    "string_type": "a text",
    "tuple_type": "a list",
    "too_short": "a list of at least {min_length}",
    "model_type": "a section with keys of its own",
}


def recipe_names() -> list[str]:
    """Names of the recipes that come with boxwright."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _FOLDER.iterdir() if entry.name.endswith(".yaml"))


def load_recipe(
    name_or_path: str | Path, overrides: Sequence[str] = (), *, say: Callable[[str], None] = lambda _: None
) -> Recipe:
    """Read and validate a recipe.

    Args:
        name_or_path: one of `recipe_names()`, a YAML file, or darknet's `.cfg`. A recipe with `base: NAME` says only
            what differs from the recipe of that name, key by key.
        overrides: assignments such as `criterion.box.type=giou`; values are YAML.
        say: called with a line for every override that names another `type`.

    Another `type`, by an override or over a base, replaces a part whole: its fields are the arguments of a class, those
    that are not given take the defaults of their own class. Sections whose kinds share fields keep these: `schedule`
    (epochs and warm-up), `optimizer` (all but `lr` and `weight_decay`, which have to be given), `criterion` (everything
    but the arguments of a class of yours).

    Raises:
        RecipeError: the recipe is unknown, not YAML, or does not validate; names the field and the nearest known one.
    """
    source, values = _resolved(str(name_or_path))
    types_first = sorted(overrides, key=lambda text: not text.partition("=")[0].endswith(".type"))
    swaps = [swap for text in types_first if (swap := override(values, text)) is not None]
    recipe = validate_recipe(values, source)
    for swap in swaps:
        say(swap.describe(recipe))
    return recipe


def parse_recipe(text: str, source: str) -> Recipe:
    """Validate what `dump_recipe` wrote.

    Args:
        text: YAML.
        source: where the text comes from, for errors.

    Raises:
        RecipeError: it does not validate; names the field and the nearest known one.
    """
    return validate_recipe(_mapping(text, source), source)


def changed_recipe(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    """Return a recipe with some values changed, section by section: `{"train": {"seed": 1}}`.

    Raises:
        RecipeError: the result does not validate.
    """
    return validate_recipe(merged(recipe.model_dump(mode="json"), changes), f"recipe {recipe.name}")


def dump_recipe(recipe: Recipe) -> str:
    """Write the resolved recipe, with every default, as YAML."""
    text: str = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
    return text


def _resolved(name: str, heirs: tuple[str, ...] = ()) -> tuple[str, dict[str, Any]]:
    """Read a recipe with what it takes from its `base`, and where it was found."""
    if Path(name).suffix == ".cfg":
        return name, recipe_values(Path(name))
    source, text = _read(name)
    values = _mapping(text, source)
    base = values.pop("base", None)
    if base is None:
        return source, values
    if not isinstance(base, str) or base in (*heirs, name):
        raise RecipeError(f"{source}: base must name another recipe, which is not built on this one, got {base!r}")
    return source, merged(_resolved(base, (*heirs, name))[1], values)


def _mapping(text: str, source: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{source} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{source} must be a YAML mapping with the sections of a recipe")
    return values


def validate_recipe(values: dict[str, Any], source: str) -> Recipe:
    """Build a recipe from values as YAML has them; arguments and errors as `parse_recipe`."""
    kind = _kind(values.get("detector"), source)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        by_key: dict[str, list[Any]] = {}  # a value that fits no member of a union is a problem for each
        for problem in error.errors():
            by_key.setdefault(_key(problem["loc"], values), []).append(problem)
        sentences = [f"{key}{_sentence(problems, kind)}".removeprefix(": ") for key, problems in by_key.items()]
        raise RecipeError(f"{source}: " + "; ".join(sentences)) from error


def _kind(detector: Any, source: str) -> type[Recipe]:
    """Return the class that describes a recipe with this section `detector`."""
    named = detector.get("type") if isinstance(detector, dict) else None
    if named is None or named in _KINDS:
        return Recipe if named is None else _KINDS[named]
    raise RecipeError(f"{source}: detector.type: unknown network {named!r}; {nearest(str(named), _KINDS)}")


def _read(name: str) -> tuple[str, str]:
    path = Path(name)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        try:
            return str(path), path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"cannot read the recipe file {path}: {error}") from error
    if name not in recipe_names():
        raise RecipeError(f"there is no recipe {name!r}; {nearest(name, recipe_names())}")
    return f"recipe {name}", (_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def _key(location: Sequence[str | int], values: Any) -> str:
    """Write where a problem is as `--set` has it, without what pydantic adds: types of parts, members of unions."""
    key: list[str] = []
    for name in location:
        if isinstance(values, dict):
            if name == values.get("type") and name not in values:
                continue
            values = values.get(name)
        elif isinstance(values, list) and isinstance(name, int):
            values = values[name] if name < len(values) else None
        else:
            continue
        key.append(str(name))
    return ".".join(key)


def _sentence(problems: Sequence[Any], kind: type[Recipe]) -> str:
    """Put what pydantic says about one value of a kind of recipe into words."""
    problem = problems[0]
    if problem["type"] == "union_tag_invalid":
        name = problem["ctx"]["tag"]
        own = problem["loc"][-1] in _OPEN and name[:1].isupper()
        hint = f"; one of your own is named by its module, such as mine.{name}" if own else ""
        return f".type: unknown part {name!r}; {nearest(name, known_types(problem))}{hint}"
    if problem["type"] == "union_tag_not_found":
        return ": the part needs a `type`"
    if problem["type"] == "missing":
        return ": is missing" + _usual(problem["loc"])
    if problem["type"] == "value_error":
        return ": " + problem["msg"].removeprefix("Value error, ") + _elsewhere(problem, kind)
    return f": must be {' or '.join(map(_wanted, problems))}, found {problem['input']!r:.80}"


def _usual(location: Sequence[str | int]) -> str:
    """Say which values are usual where sgd and adamw need values of their own, which another `type` drops."""
    usual = _USUAL.get(str(location[-1])) if location[0] == "optimizer" else None
    return "" if usual is None else f" (what sgd and adamw need is not comparable; usual are {usual})"


def _wanted(problem: Any) -> str:
    """What a value must be, in the words of YAML instead of Python's."""
    known = _WANTED.get(problem["type"]) or re.sub(r"^\w+ should (be )?", "", problem["msg"])
    return known.format(**problem.get("ctx", {}))


def _elsewhere(problem: Any, kind: type[Recipe]) -> str:
    """Say in which section an unknown key would be known, so that `train.epochs` leads to `schedule.epochs`."""
    unknown = re.search(r"unknown key '(\w+)'; (did you mean)?", problem["msg"])
    if unknown is None:
        return ""
    dense, sentence = _ELSEWHERE.get(kind, (Section, ""))
    if problem["loc"][:1] == ("criterion",) and unknown[1] in dense.model_fields:
        return "; " + sentence.format(key=unknown[1])
    if unknown[2]:  # what is near in its own section is named already
        return ""
    places: dict[str, list[str]] = {}
    for section, field in Recipe.model_fields.items():
        for key in getattr(field.annotation, "model_fields", ()):
            places.setdefault(key, []).append(f"{section}.{key}")
    close = difflib.get_close_matches(unknown[1], places, n=1)
    return f"; there is {' and '.join(places[close[0]])}" if close else ""
