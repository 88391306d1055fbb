"""Tables of a page: complete without a script, sortable with one."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, Final, NamedTuple

__all__ = ["Column", "framed_table", "heading", "row", "table", "tooltip", "written"]

_FORMS: Final = {"count": "{:,}", "mean": "{:.2f}", "share": "{:.1%}"}


class Column(NamedTuple):
    """A column of a table: which number, how it is written ("word": as it is), its heading, classes of its cells."""

    key: str
    form: str
    title: str
    style: str = ""


def table(
    kind: str, caption: str, head: str, columns: Iterable[Column], rows: Iterable[str], attributes: str = ""
) -> str:
    """Write a table of columns and rows (see `row`); `head` is the heading of the first column."""
    headings = [heading(escape(head)), *(heading(escape(column.title)) for column in columns)]
    return framed_table(kind, caption, headings, rows, attributes)


def framed_table(kind: str, caption: str, headings: Iterable[str], rows: Iterable[str], attributes: str = "") -> str:
    """Write a table in a box that scrolls sideways.

    Args:
        kind: classes of the table; `sortable` gives its headings buttons.
        caption: markup.
        headings: see `heading`.
        rows: markup.
        attributes: more attributes of the table.
    """
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(kind.split()[0])}">'
        f'<table class="{kind}" {attributes}><caption>{caption}</caption>'
        f"<thead><tr>{''.join(headings)}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def heading(title: str, attributes: str = "") -> str:
    """Write the heading of a column; `title` is markup."""
    return f'<th scope="col" {attributes}>{title}</th>'


def row(
    label: str, columns: Iterable[Column], numbers: Mapping[str, Any], attributes: str = "", order: float | None = None
) -> str:
    """Write a row; `label` is markup, `order` what it is sorted by instead of its text."""
    head = f'<th scope="row"{"" if order is None else f" data-v={order!r}"}>{label}</th>'
    return f"<tr {attributes}>{head}{''.join(_cell(column, numbers[column.key]) for column in columns)}</tr>"


def tooltip(name: str, style: str = "") -> str:
    """Write a name that may be cut off, with the whole of it as a tooltip."""
    return f'<span class="{style}" title="{escape(name)}">{escape(name)}</span>'


def _cell(column: Column, value: Any) -> str:
    if column.form == "word":
        return f'<td class="{column.style}">{escape(value)}</td>'
    shade = "--heat:" if "heat" in column.style else "--share:"
    style = f' class="{column.style}" style="{shade}{_amount(column, value)}"' if column.style else ""
    known = "" if value is None else repr(value)
    return (
        f'<td data-k="{column.key}" data-f="{column.form}" data-v="{known}"{style}>{written(column.form, value)}</td>'
    )


def _amount(column: Column, value: float | None) -> str:
    return f"{value or 0:.3f}" if "heat" in column.style else f"{100 * (value or 0):.1f}%"


def written(form: str, value: float | None) -> str:
    """Write a number; the page's script writes the same."""
    if value is None:
        return "–"
    return _FORMS[form].format(value).replace("%", " %")
