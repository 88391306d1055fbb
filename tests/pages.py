"""Finds and runs the code of the documentation."""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

DOCS = Path(__file__).resolve().parents[1] / "docs"


def blocks(page: Path, language: str) -> list[str]:
    """Return the blocks of a page that are in one language."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def run_page(name: str, **given: Any) -> dict[str, Any]:
    """Run a page's Python blocks after each other, with some names given, and return what they have defined."""
    module = ModuleType("page_" + Path(name).stem.replace("-", "_"))
    sys.modules[module.__name__] = module  # where torch 2.11's compiler looks for the globals of what it traces
    vars(module).update(given)
    for block in blocks(DOCS / name, "python"):
        if " = function(" not in block:
            exec(block, vars(module))
    return vars(module)
