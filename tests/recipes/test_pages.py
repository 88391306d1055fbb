"""The pages of the recipes say what the recipes say."""

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "docs" / "recipe_pages.py"


def test_the_pages_are_as_the_recipes():
    spec = importlib.util.spec_from_file_location("recipe_pages", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    stale = [
        file.name
        for file, content in script.files().items()
        if not file.exists() or file.read_text(encoding="utf-8") != content
    ]
    assert not stale, f"run python {SCRIPT.name} in docs/ to write {stale}"
    full = script.numbers(["atss"], {"atss": [{"data": "BCCD", "AP": 0.5, "command": "boxwright train"}]})
    assert "| `atss` | BCCD | 0.5 |  |  |  |  | `boxwright train` |" in full
