"""Turns classes into validated, typed parts of a recipe: their constructors are the only description needed.

`type: giou` names `GIoULoss`; the fields are the constructor's arguments with their annotations and defaults. Adding a
class to a package's `__all__` is all it takes to make it selectable. `type: package.module.MyLoss` names one elsewhere.
"""

import difflib
import importlib
import inspect
import re
import sysconfig
import traceback
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
    SerializationInfo,
    ValidatorFunctionWrapHandler,
    create_model,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema
from torch import Tensor, nn

from boxwright.errors import RecipeError
from boxwright.losses import ClassificationLoss

__all__ = ["Part", "PartOf", "Section", "built", "count_classes", "known_types", "named", "nearest", "type_name"]


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a sentence that names the closest known word and lists them all."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return (f"did you mean {close[0]!r}? " if close else "") + f"Known: {', '.join(known)}"


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
        return type(self).factory(**fields, **context)


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
        written = core_schema.plain_serializer_function_ser_schema(_written, info_arg=True)
        return core_schema.no_info_wrap_validator_function(self._ours_or_own, ours, serialization=written)

    def _ours_or_own(self, values: Any, ours: ValidatorFunctionWrapHandler) -> Any:
        if isinstance(values, Part):
            return values
        path = values.get("type") if isinstance(values, dict) else None
        if not isinstance(path, str) or "." not in path:
            return ours(values)
        own = _own_class(path)
        assert self.objection is not None
        if said := self.objection(own):
            raise ValueError(f"{path} does not fit, because {said}")
        return _own_model(path, own).model_validate(values)


def named(classes: Iterable[type]) -> dict[str, type]:
    """Map classes by their `type_name`."""
    return {type_name(cls): cls for cls in classes}


def _written(part: Part, info: SerializationInfo) -> dict[str, Any]:
    return part.model_dump(mode=info.mode)


def _own_class(path: str) -> type:
    """Return the class that `package.module.Class` names.

    Raises:
        ValueError: there is none, or its module cannot be imported.
    """
    module_name, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's code raises
        raise ValueError(f"cannot import {module_name!r} for {path!r}: {_why_no_import(error)}") from error
    found = getattr(module, name, None)
    if not isinstance(found, type):
        package = module_name.partition(".")[0]  # what it imports from elsewhere is not meant
        classes = [cls for cls in vars(module).values() if isinstance(cls, type)]
        own = [cls.__name__ for cls in classes if cls.__module__.partition(".")[0] == package]
        raise ValueError(f"module {module_name!r} has no class {name!r}; {nearest(name, own)}")
    return found


def _why_no_import(error: Exception) -> str:
    """Say what an import raised, and where in the user's files; else that the module was not found, and what to do."""
    what = f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}"
    if isinstance(error, SyntaxError) and error.filename:
        return f"{what} in {error.filename}, line {error.lineno}"
    installed = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is ours
    if own := [frame for frame in frames if not frame.filename.startswith(("<frozen ", *installed))]:
        return f"{what} in {own[-1].filename}, line {own[-1].lineno}"
    return (
        f"{error}; a module that is not installed is found where PYTHONPATH names its folder, PYTHONPATH=. the "
        "current one"
    )


@cache
def _own_model(path: str, own: type) -> type[Part]:
    try:
        return _describe(path, own, ())
    except (TypeError, NameError, PydanticUserError) as error:
        raise ValueError(f"{path} cannot stand in a recipe: {str(error).partition(chr(10))[0]}") from error


def _describe(name: str, factory: Callable[..., Any], context: tuple[str, ...]) -> type[Part]:
    """Make the pydantic model of a factory from its signature."""
    hints = typing.get_type_hints(inspect.getattr_static(factory, "__init__") if isinstance(factory, type) else factory)
    fields: dict[str, Any] = {"type": (Literal[name], ...)}
    for parameter in inspect.signature(factory).parameters.values():
        if parameter.name not in {*context, "reduction"}:
            if parameter.name not in hints:
                raise TypeError(
                    f"{factory.__name__}: annotate {parameter.name!r}, so that a recipe can check its value"
                )
            default = ... if parameter.default is inspect.Parameter.empty else parameter.default
            fields[parameter.name] = (hints[parameter.name], default)
    model = create_model(f"{name}-part", __base__=Part, __doc__=inspect.getdoc(factory), **fields)
    model.factory = staticmethod(factory)
    return model
