"""Lets mkdocstrings show examples in docstrings (`>>> …` in running text) as code."""

import re

import griffe

_EXAMPLE = re.compile(r"^(?P<indent> *)>>> .*(?:\n(?! *$).+)*", re.MULTILINE)


def _fenced(match: re.Match[str]) -> str:
    indent = match["indent"]
    return f"{indent}```pycon\n{match[0]}\n{indent}```"


class Doctests(griffe.Extension):
    """Puts a fence around each example, up to the next blank line."""

    def on_instance(self, *, obj: griffe.Object | griffe.Alias, **kwargs: object) -> None:
        if isinstance(obj, griffe.Object) and obj.docstring is not None:
            obj.docstring.value = _EXAMPLE.sub(_fenced, obj.docstring.value)
