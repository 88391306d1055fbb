"""Classes of the user's own module, which a recipe names by their path, `type: package.module.Class`."""

import difflib
import hashlib
import importlib
import sysconfig
import traceback
from collections.abc import Callable, Collection, Iterable
from functools import partial
from inspect import Parameter, getfile, signature
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import BaseModel, SerializationInfo, ValidatorFunctionWrapHandler
from pydantic_core import CoreSchema, core_schema

__all__ = ["arguments", "nearest", "or_own", "own_class", "own_files", "raised", "raised_by"]

_COLLECTED = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
_PACKAGE = str(Path(__file__).parents[1])


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a sentence that names the closest known word and lists them all."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return (f"did you mean {close[0]!r}? " if close else "") + f"Known: {', '.join(known)}"


def or_own(ours: CoreSchema, describe: Callable[[str, type], type[BaseModel]]) -> CoreSchema:
    """Let a field also take a section whose `type` is the path of a class.

    Args:
        ours: what the field takes otherwise.
        describe: returns the section of a class with this path; a `ValueError` says why it does not fit.
    """
    written = core_schema.plain_serializer_function_ser_schema(_written, info_arg=True)
    return core_schema.no_info_wrap_validator_function(partial(_ours_or_own, describe), ours, serialization=written)


def _ours_or_own(
    describe: Callable[[str, type], type[BaseModel]], values: Any, ours: ValidatorFunctionWrapHandler
) -> Any:
    if isinstance(values, BaseModel):
        return values
    path = values.get("type") if isinstance(values, dict) else None
    if not isinstance(path, str) or "." not in path:
        return ours(values)
    return describe(path, own_class(path)).model_validate(values)


def _written(section: BaseModel, info: SerializationInfo) -> dict[str, Any]:
    return section.model_dump(mode=info.mode)


def own_class(path: str) -> type:
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
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} in {error.filename}, line {error.lineno}"
    return raised(error) or (
        f"{error}; a module that is not installed is found where PYTHONPATH names its folder, PYTHONPATH=. the "
        "current one"
    )


def raised(error: Exception) -> str:
    """Say what was raised and where in the user's files; empty where none of them took part."""
    elsewhere = ("<frozen ", _PACKAGE, *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")))
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(elsewhere)]
    return f"{type(error).__name__}: {error} in {own[-1].filename}, line {own[-1].lineno}" if own else ""


def arguments(own: type, without: Collection[str] = ()) -> dict[str, tuple[Any, Any]]:
    """Return annotation and default (`...`: none) of a class's arguments, also of those that it hands on to its bases.

    Args:
        own: the class.
        without: arguments that are left out.

    Raises:
        TypeError: an argument is not annotated.
    """
    found: dict[str, tuple[Any, Any]] = {}
    for cls in own.__mro__:
        if "__init__" not in vars(cls):
            continue
        constructor: Any = vars(cls)["__init__"]
        hints = get_type_hints(constructor)
        _, *taken = signature(constructor).parameters.values()
        for argument in taken:
            if argument.kind in _COLLECTED or argument.name in {*without, *found}:
                continue
            if argument.name not in hints:
                raise TypeError(f"{cls.__name__}: annotate {argument.name!r}, so that a recipe can check its value")
            default = ... if argument.default is Parameter.empty else argument.default
            found[argument.name] = (hints[argument.name], default)
        if all(argument.kind is not Parameter.VAR_KEYWORD for argument in taken):
            break
    return found


def own_files(values: Any) -> dict[str, dict[str, str]]:
    """Return `file` and `sha256` of where the classes of the user's own are written that a recipe's values name.

    Args:
        values: of a validated recipe, so that the classes have been imported.
    """
    found: dict[str, dict[str, str]] = {}
    if isinstance(values, dict):
        path = values.get("type")
        if isinstance(path, str) and "." in path:
            file = Path(getfile(own_class(path)))
            if file.is_file():  # not one of a zip archive
                found[path] = {"file": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        for value in values.values():
            found |= own_files(value)
    return found


def raised_by(error: Exception, values: Any) -> str:
    """Say as `raised` what a class of the user's own raised that a recipe's values name; empty where none took part."""
    files = {own["file"] for own in own_files(values).values()}
    took_part = any(frame.filename in files for frame in traceback.extract_tb(error.__traceback__))
    return raised(error) if took_part else ""
