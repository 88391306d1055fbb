"""The architecture page says what the import rules check, and both say what the package holds."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def layers():
    """Packages of each layer, from the top, as import-linter checks them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    lines = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [re.findall(r"boxwright\.(\w+)", line) for line in lines]


def table_rows():
    """Packages of each row of the page's table, from the top."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    return [re.findall(r"`(\w+)`", cells) for cells in re.findall(r"^\| \d \| (.*?) \|", page, re.MULTILINE)]


def test_every_package_has_its_layer():
    packages = {path.parent.name for path in (ROOT / "src" / "boxwright").glob("*/__init__.py")}
    assert packages == {name for layer in table_rows() for name in layer}


def test_the_page_lists_the_layers_in_the_order_that_is_checked():
    listed = [name for layer in table_rows() for name in layer]
    checked = [name for layer in layers() for name in layer if name in listed]
    assert sorted(listed) == sorted(checked)
    height = {name: number for number, layer in enumerate(layers()) for name in layer}
    row = {name: number for number, layer in enumerate(table_rows()) for name in layer}
    assert all(height[a] <= height[b] for a in listed for b in listed if row[a] < row[b])
