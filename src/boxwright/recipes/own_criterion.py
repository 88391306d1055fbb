"""Criteria of the user's own module: `criterion.type: package.module.Class`."""

from functools import cache, partial
from inspect import Parameter, getdoc, signature
from typing import Any, Literal

from pydantic import BaseModel, GetCoreSchemaHandler, PydanticUserError, create_model
from pydantic_core import CoreSchema

from boxwright.criteria import DenseCriterion, StageCriterion
from boxwright.recipes.own import arguments, or_own

__all__ = ["OrOwnCriterion"]

_KNOWN = signature(DenseCriterion).parameters


class OrOwnCriterion:
    """Annotation of the section of a dense criterion, which may name a class that is derived from `DenseCriterion`.

    Such a section has all fields of the dense criterion and, beside them, the arguments that the constructor of the
    class adds, in `added`; `factory` is the class.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return or_own(handler(source), partial(_section, source))


@cache
def _section(dense: type[BaseModel], path: str, own: type) -> type[BaseModel]:
    """Make the section of a class.

    Raises:
        ValueError: the class does not fit.
    """
    if said := _no_criterion(own):
        raise ValueError(f"{path} does not fit, because {said}")
    try:
        added = arguments(own, without=_KNOWN)
        if taken := [name for name in added if name in dense.model_fields or hasattr(dense, name)]:
            raise TypeError(f"{taken[0]!r} is a name of a recipe's criterion already; call the argument otherwise")
        fields: dict[str, Any] = {"type": (Literal[path], ...), **added}
        create: Any = create_model  # whose class a type checker takes for a class of this function
        section = create(f"{path}-part", __base__=dense, __doc__=getdoc(own), **fields)
    except (TypeError, NameError, PydanticUserError) as error:
        raise ValueError(f"{path} cannot stand in a recipe: {str(error).partition(chr(10))[0]}") from error
    section.factory, section.added = own, tuple(added)
    return section


def _no_criterion(own: type) -> str | None:
    """Say what speaks against a criterion of the user's own."""
    if not issubclass(own, DenseCriterion):
        return "a criterion is derived from boxwright.criteria.DenseCriterion"
    if issubclass(own, StageCriterion):
        return "it is made for a stage of a detector with two, whose criteria a recipe does not name"
    taken = signature(own).parameters
    if any(argument.kind is Parameter.VAR_KEYWORD for argument in taken.values()):
        return None
    missing = _KNOWN.keys() - taken.keys()
    if missing:
        example = "def __init__(self, *parts, mine: float = 1.0, **options)"
        return f"its constructor does not take {', '.join(sorted(missing))}: write {example}, and hand both on"
    return None
