"""Finds and runs the code of the documentation."""

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1] / "docs"


def blocks(page: Path, language: str) -> list[str]:
    """Return the blocks of a page that are in one language."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def run_page(name: str, **given: Any) -> dict[str, Any]:
    """Run a page's Python blocks after each other, with some names given, and return what they have defined."""
    namespace: dict[str, Any] = {"__name__": name, **given}
    for block in blocks(DOCS / name, "python"):
        if " = function(" not in block:
            exec(block, namespace)
    return namespace
