"""Runs the code of the documentation."""

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1] / "docs"


def run_page(name: str) -> dict[str, Any]:
    """Run a page's Python blocks after each other, and return what they have defined."""
    namespace: dict[str, Any] = {"__name__": name}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(), re.DOTALL):
        if " = function(" not in block:
            exec(block, namespace)
    return namespace
