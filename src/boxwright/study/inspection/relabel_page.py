"""The page's section of boxes to look at again."""

from collections import Counter
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

from boxwright.study.inspection.relabel import NOT_ANNOTATED
from boxwright.study.inspection.sides import FOUND
from boxwright.study.inspection.suspects import REASONS, WIDE
from boxwright.study.inspection.unlabelled import SHOWN
from boxwright.study.tables import Column, row, table, tooltip
from boxwright.study.templates import fill

__all__ = ["relabel_section", "shortened"]

_IN_PAGE: Final = {"annotated": 400, "unlabelled": 200}  # that travel in the page; the files hold all
_COLUMNS: Final = (
    Column("class", "word", "class"),
    Column("reasons", "word", "why"),
    Column("score", "mean", "score"),
    Column("iou", "mean", "IoU"),
    Column("offset", "share", "off", "bar"),
    Column("spread", "share", "spread", "bar"),
    Column("prominence", "share", "second peak", "bar"),
    Column("double_iou", "mean", "double"),
)


def shortened(report: dict[str, Any]) -> dict[str, Any]:
    """Return a report whose lists of boxes to look at again are short enough for a page."""
    lists = report["relabel"]
    if lists is None:
        return report
    parts = {part: lists[part] | {"rows": lists[part]["rows"][:most]} for part, most in _IN_PAGE.items()}
    return report | {"relabel": lists | parts}


def relabel_section(report: dict[str, Any]) -> str:
    """Write the lists and what draws them; empty without a network with distributional boxes, or without any box."""
    lists = report["relabel"]
    if lists is None or not any(lists[part]["rows"] for part in _IN_PAGE):
        return ""
    rows = list(_rows(lists))
    markup = [
        row(
            f'<span class="rank">{rank}</span> {tooltip(numbers["image"], "file")}',
            _COLUMNS,
            numbers,
            f'data-object="{i}"',
            i,
        )
        for i, (rank, numbers) in enumerate(rows)
    ]
    caption = (
        f"Up to {_IN_PAGE['annotated']} of {len(lists['annotated']['rows']):,} annotated objects, and up to "
        f"{_IN_PAGE['unlabelled']} of {len(lists['unlabelled']['rows']):,} without a box; the files hold all"
    )
    return fill(
        "relabel.html",
        classes="".join(f"<option>{escape(name)}</option>" for name in report["data"]["classes"]),
        reasons=_reasons(lists),
        shown=f"{SHOWN:g}",
        found=f"{FOUND:g}",
        wide=f"{WIDE:.0%}".replace("%", " %"),
        table=table("relabel sortable", caption, "object", _COLUMNS, markup),
    )


def _rows(lists: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rank and numbers of the rows that the page shows."""
    for part, most in _IN_PAGE.items():
        for rank, values in enumerate(lists[part]["rows"][:most], start=1):
            yield rank, dict(zip(lists["columns"], values, strict=True))


def _reasons(lists: Mapping[str, Any]) -> str:
    """Options of the reasons, with how many boxes of the whole data set have each."""
    at = lists["columns"].index("reasons")
    counts = Counter(reason for values in lists["annotated"]["rows"] for reason in values[at].split(", "))
    counts[NOT_ANNOTATED] = len(lists["unlabelled"]["rows"])
    return "".join(f'<option value="{name}">{name} ({counts[name]:,})</option>' for name in (*REASONS, NOT_ANNOTATED))
