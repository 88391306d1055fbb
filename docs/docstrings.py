"""Lets mkdocstrings show examples in docstrings (`>>> …` in running text) as code, and link the names of parts."""

import importlib
import re

import griffe

_PACKAGES = (
    "structures",
    "boxes",
    "losses",
    "assigners",
    "criteria",
    "testing",
    "models",
    "recipes",
    "data",
    "engine",
)
_EXAMPLE = re.compile(r"^(?P<indent> *)>>> .*(?:\n(?! *$).+)*", re.MULTILINE)
# words without a capital or an underscore are more often words than names
_NAME = re.compile(r"(?<!`)`(\w*[A-Z_]\w*)`(?!`)")


class Docstrings(griffe.Extension):
    """Puts a fence around each example, up to the next blank line, and makes a part's name a link to the part."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = {
            name: f"boxwright.{package}.{name}"
            for package in _PACKAGES
            for name in importlib.import_module(f"boxwright.{package}").__all__
        }

    def on_instance(self, *, obj: griffe.Object | griffe.Alias, **kwargs: object) -> None:
        if isinstance(obj, griffe.Object) and obj.docstring is not None:
            text = _NAME.sub(lambda match: self._linked(match, obj.name), obj.docstring.value)
            obj.docstring.value = _EXAMPLE.sub(_fenced, text)

    def _linked(self, match: re.Match[str], own: str) -> str:
        name = match[1]
        return f"[`{name}`][{self.parts[name]}]" if name in self.parts and name != own else match[0]


def _fenced(match: re.Match[str]) -> str:
    indent = match["indent"]
    return f"{indent}```pycon\n{match[0]}\n{indent}```"
