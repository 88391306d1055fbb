"""The page's section of ambiguous boxes."""

from html import escape
from importlib import resources
from string import Template
from typing import Any, Final

from boxwright.study.tables import Column, row, table

__all__ = ["IN_PAGE", "ambiguous_section", "shortened"]

IN_PAGE: Final = 300  # objects that travel in the page; the files hold all
_COLUMNS: Final = (
    Column("class", "word", "class"),
    Column("side", "word", "side"),
    Column("ambiguity", "share", "spread / size", "bar"),
    Column("prominence", "share", "second peak", "bar"),
    Column("score", "mean", "score"),
    Column("iou", "mean", "IoU"),
    Column("crowding", "mean", "overlap"),
)


def shortened(report: dict[str, Any]) -> dict[str, Any]:
    """Return a report with a list of ambiguous boxes that is short enough for a page."""
    ambiguous = report["ambiguous"]
    if ambiguous is None:
        return report
    return report | {"ambiguous": ambiguous | {"rows": ambiguous["rows"][:IN_PAGE]}}


def ambiguous_section(report: dict[str, Any]) -> str:
    """Write the list of ambiguous boxes and what draws them; empty without a network with distributional boxes."""
    ambiguous = report["ambiguous"]
    if ambiguous is None or not ambiguous["rows"]:
        return ""
    rows = []
    for number, values in enumerate(ambiguous["rows"][:IN_PAGE]):
        numbers = dict(zip(ambiguous["columns"], values, strict=True))
        label = f'<span class="rank">{number + 1}</span> {escape(numbers["image"])}'
        rows.append(row(label, _COLUMNS, numbers, f'data-object="{number}"', number))
    count = len(ambiguous["rows"])
    caption = (
        f"The first {len(rows):,} of {count:,} objects; the CSV and JSON files list all. Overlap: with another object"
    )
    classes = "".join(f"<option>{escape(name)}</option>" for name in report["data"]["classes"])
    section = (resources.files("boxwright.study") / "page" / "ambiguous.html").read_text(encoding="utf-8")
    listed = table("ambiguous sortable", caption, "object", _COLUMNS, rows)
    return Template(section).substitute(classes=classes, table=listed)
