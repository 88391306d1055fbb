"""The files that pages are made of: HTML templates, styles and scripts, in the folder `page`."""

import json
from collections.abc import Mapping
from importlib import resources
from string import Template
from typing import Any, Final

__all__ = ["asset", "embedded", "fill"]

_FOLDER: Final = resources.files("boxwright.study") / "page"


def asset(*names: str) -> str:
    """Return the text of files, one after the other."""
    return "".join((_FOLDER / name).read_text(encoding="utf-8") for name in names)


def fill(name: str, **values: str) -> str:
    """Return a template with every `$placeholder` replaced."""
    return Template(asset(name)).substitute(**values)


def embedded(report: Mapping[str, Any]) -> str:
    """Write a report as JSON that no text in it can end before its `<script>` element does."""
    return json.dumps(report).replace("<", "\\u003c")
