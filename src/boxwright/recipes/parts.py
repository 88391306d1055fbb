"""Turns classes into validated, typed parts of a recipe: their constructors are the only description needed.

`type: giou` names `GIoULoss`; the fields are the constructor's arguments with their annotations and defaults. Adding a
class to a package's `__all__` is all it takes to make it selectable. `type: package.module.MyLoss` names one elsewhere.
"""

import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import cache, reduce
from operator import or_
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PydanticUserError,
    create_model,
    model_validator,
)
from pydantic_core import CoreSchema
from torch import Tensor, nn

from boxwright.errors import RecipeError
from boxwright.losses import ClassificationLoss
from boxwright.recipes.own import arguments, nearest, or_own, raised

__all__ = [
    "NonNegative",
    "Part",
    "PartOf",
    "Positive",
    "Probability",
    "Section",
    "built",
    "constructed",
    "count_classes",
    "known_types",
    "named",
    "type_name",
]

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


def known_types(problem: Mapping[str, Any]) -> list[str]:
    """Return what pydantic's problem `union_tag_invalid` says that `type` may be."""
    return [tag.strip(" '") for tag in problem["ctx"]["expected_tags"].split(",")]


class Section(BaseModel):
    """A mapping in a recipe that answers unknown keys with the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _unknown_keys(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key in values.keys() - cls.model_fields.keys():
                raise ValueError(f"unknown key {key!r}; {nearest(str(key), cls.model_fields)}")
        return values


class Part(Section):
    """A part named by `type`; `build` calls the class that it describes."""

    factory: ClassVar[Callable[..., Any]]
    type: str

    def build(self, **context: Any) -> Any:
        """Construct the described object; `context` holds what a recipe cannot know, such as channel counts."""
        fields = {name: getattr(self, name) for name in type(self).model_fields if name != "type"}
        return constructed(type(self).factory, self.type, **fields, **context)


def constructed(factory: Callable[..., Any], path: str, **arguments: Any) -> Any:
    """Call a class; whatever one of the user's own, which has a dot in its path, raises becomes a `ValueError`."""
    try:
        return factory(**arguments)
    except Exception as error:
        if "." not in path or isinstance(error, ValueError):
            raise
        raise ValueError(f"{path} cannot be made: {raised(error) or error}") from error


def built(field: str, part: Part, **context: Any) -> Any:
    """Construct a part; what its class says against it becomes a `RecipeError` that names the field."""
    try:
        return part.build(**context)
    except ValueError as error:
        raise RecipeError(f"{field}: {error}") from error


def count_classes(field: str, classification: nn.Module, counts: Tensor | None) -> None:
    """Hand the training data's objects of each class (C,) to a loss that looks at them; errors as `built`."""
    if counts is not None and isinstance(classification, ClassificationLoss):
        try:
            classification.count_classes(counts)
        except ValueError as error:
            raise RecipeError(f"{field} {error}") from error


def type_name(cls: type) -> str:
    """Derive the recipe name of a class: `GIoULoss` is `giou`, `MaxIoUAssigner` `max-iou`."""
    name = re.sub(r"(Loss|Assigner|Coder|Head|Generator)$", "", cls.__name__)
    name = re.sub(r"[A-Z]*(?:IoU|YOLOE?)|KL|NanoDet", lambda word: word[0].capitalize(), name).replace("OTA", "ota")
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name)
    return name.lower()


class PartOf:
    """Annotation that turns a field into a choice among factories: `Annotated[Part, PartOf(named(losses))]`.

    Args:
        factories: classes, or functions that return an object, by the `type` that names them.
        context: arguments that `build` receives from code rather than from the recipe.
        objection: what speaks against a class of the user's own (None: nothing), which the recipe names by its module;
            None where no other classes are taken.
    """

    def __init__(
        self,
        factories: Mapping[str, Callable[..., Any]],
        context: tuple[str, ...] = (),
        objection: Callable[[type], str | None] | None = None,
    ) -> None:
        self.models = [_describe(name, factory, context) for name, factory in factories.items()]
        self.objection = objection

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if len(self.models) == 1:
            return handler.generate_schema(self.models[0])
        union = reduce(or_, self.models)
        ours = handler.generate_schema(Annotated[union, Field(discriminator="type")])
        if self.objection is None:
            return ours
        return or_own(ours, self._own)

    def _own(self, path: str, own: type) -> "type[Part]":
        assert self.objection is not None
        if said := self.objection(own):
            raise ValueError(f"{path} does not fit, because {said}")
        return _own_model(path, own)


def named(classes: Iterable[type]) -> dict[str, type]:
    """Map classes by their `type_name`."""
    return {type_name(cls): cls for cls in classes}


@cache
def _own_model(path: str, own: type) -> type[Part]:
    try:
        return _model(path, own, arguments(own, without=("reduction",)))
    except (TypeError, NameError, PydanticUserError) as error:
        raise ValueError(f"{path} cannot stand in a recipe: {str(error).partition(chr(10))[0]}") from error


def _describe(name: str, factory: Callable[..., Any], context: tuple[str, ...]) -> type[Part]:
    """Make the pydantic model of a factory from its signature."""
    hints = typing.get_type_hints(inspect.getattr_static(factory, "__init__") if isinstance(factory, type) else factory)
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(factory).parameters.values():
        if parameter.name not in {*context, "reduction"}:
            if parameter.name not in hints:
                raise TypeError(
                    f"{factory.__name__}: annotate {parameter.name!r}, so that a recipe can check its value"
                )
            default = ... if parameter.default is inspect.Parameter.empty else parameter.default
            fields[parameter.name] = (hints[parameter.name], default)
    return _model(name, factory, fields)


def _model(name: str, factory: Callable[..., Any], fields: dict[str, Any]) -> type[Part]:
    kind: Any = (Literal[name], ...)
    model = create_model(f"{name}-part", __base__=Part, __doc__=inspect.getdoc(factory), type=kind, **fields)
    model.factory = staticmethod(factory)
    return model
