"""The report as one HTML page that needs no network: tables by Python, filters and pictures by a script in the page."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, Final

from boxwright.counts import counted
from boxwright.study.inspection.relabel_page import relabel_section, shortened
from boxwright.study.tables import Column, row, table, tooltip, written
from boxwright.study.templates import asset, embedded, fill

__all__ = ["inspect_page"]

_SCRIPTS: Final = ("tables.js", "inspect.js", "heat.js", "images.js", "steps.js", "relabel.js", "start.js")

_OBJECTS: Final = Column("objects", "count", "objects")
_RESULT: Final = (
    Column("unmatched", "count", "no positives"),
    Column("unmatched_share", "share", "share", "bar bad"),
    Column("positives_per_object", "mean", "per object"),
    Column("lost_share", "share", "lost", "bar"),
)
_PRIORS: Final = (
    Column("ignored_share", "share", "priors ignored", "bar"),
    Column("negatives_per_positive", "mean", "negatives per positive"),
)
_CARDS: Final = (_OBJECTS, *_RESULT, *_PRIORS)
_CARD_TITLES: Final = {
    "unmatched": "objects without positives",
    "unmatched_share": "share of the objects",
    "positives_per_object": "positives per object",
    "lost_share": "lost to another object",
}


def inspect_page(report: dict[str, Any]) -> str:
    """Write the page of a report of `inspect_data`."""
    data, recipe, assigners = report["data"], report["recipe"], report["assigners"]
    first = assigners[0]["summary"]
    facts = (
        f"{data['describe'].removeprefix('found: ')}. "
        f"Split {data['split']}: {counted(data['images'], 'image')}, {counted(data['objects'], 'object')}, "
        f"seen at {_size(recipe['size'])} px as {recipe['name']} sees them, on strides "
        f"{', '.join(f'{stride:g}' for stride in recipe['strides'])}."
    )
    section = relabel_section(report)
    return fill(
        "inspect.html",
        title="What each assigner does with these objects",
        facts=escape(facts),
        run=_run(report),
        nav=_nav(relabel=bool(section)),
        css=asset("page.css"),
        script=asset(*_SCRIPTS),
        controls=_controls(report),
        cards="".join(_card(column, first["all"]) for column in _CARDS),
        assigners=_assigners(assigners),
        steps="".join(_steps(number, assigner) for number, assigner in enumerate(assigners)),
        axes="".join(_axis(number, axis, first[axis["key"]]) for number, axis in enumerate(report["axes"])),
        spread=_spread(report, first["size"]),
        advice=_advice(report["fit"]["advice"], data["objects"] + data["vanished"]),
        anchors=_anchors(report["fit"]["anchors"]),
        relabel=section,
        footer=f"boxwright {report['boxwright']}, <code>boxwright inspect</code>. Also written: its numbers, as JSON.",
        data=embedded(shortened(report)),
    )


def _run(report: dict[str, Any]) -> str:
    """Say whose predictions are looked at."""
    if not report["stages"]:
        return "Before any training: assigners that look at predictions need a run (<code>--run</code>)."
    missing = f" Nothing is shown of the time before it: {escape(report['missing'])}" if report["missing"] else ""
    return (
        f"Assigners that look at predictions see those of the run’s network, {' and '.join(report['stages'])}.{missing}"
    )


def _nav(*, relabel: bool) -> str:
    places = {
        "assigners": "Assigners",
        "images": "Images",
        "steps": "Settings",
        "kinds": "Kinds of object",
        "fit": "Fit",
    }
    if relabel:
        places["relabel"] = "Boxes to look at again"
    return "".join(f'<a href="#{place}">{title}</a>' for place, title in places.items())


def _controls(report: dict[str, Any]) -> str:
    names = [assigner["name"] for assigner in report["assigners"]]
    parts = [
        _select("assigner", "Assigner", list(enumerate(names))),
        '<label>Setting <output id="step-value"></output><input id="step" type="range" min="0" max="0"></label>',
    ]
    for axis in report["axes"]:
        options = [(-1, "all"), *enumerate(axis["values"])]
        parts.append(_select(f"filter-{axis['key']}", axis["title"], options))
    return "".join(parts) + '<button id="reset" type="button">Reset</button>'


def _select(name: str, label: str, options: Iterable[tuple[int, str]]) -> str:
    choices = "".join(f'<option value="{value}">{escape(text)}</option>' for value, text in options)
    return f'<label>{escape(label)} <select id="{name}">{choices}</select></label>'


def _card(column: Column, numbers: dict[str, Any]) -> str:
    value = numbers[column.key]
    title = _CARD_TITLES.get(column.key)
    kind = f"unmatched{' bad' if value else ''}" if column.key == "unmatched" else ""
    number = f'<dd data-k="{column.key}" data-f="{column.form}">{written(column.form, value)}</dd>'
    return f'<div class="{kind}"><dt>{escape(title or column.title)}</dt>{number}</div>'


def _assigners(assigners: Sequence[dict[str, Any]]) -> str:
    columns = (*_RESULT, *_PRIORS)
    rows = [
        row(escape(assigner["name"]), columns, assigner["summary"]["all"], f'data-assigner="{number}"')
        for number, assigner in enumerate(assigners)
    ]
    return table("assigners sortable", "All assigners, at the settings chosen", "assigner", columns, rows)


def _steps(number: int, assigner: dict[str, Any]) -> str:
    setting = assigner["setting"] or "setting"
    caption = f"<b>{escape(assigner['name'])}</b> <code>{escape(assigner['assigner'])}</code>"
    columns = (*_RESULT, *_PRIORS)
    rows = []
    for index, step in enumerate(assigner["steps"]):
        label = f"{step['value']:g}" if step["value"] is not None else "as it is"
        usual = " (usual)" if index == assigner["usual"] else ""
        numbers = step["summary"]
        rows.append(row(label + usual, columns, numbers, f'data-step="{index}"', step["value"]))
    return table("steps sortable", caption, setting, columns, rows, f'data-assigner="{number}"')


def _axis(number: int, axis: dict[str, Any], groups: Sequence[dict[str, Any]]) -> str:
    columns = (_OBJECTS, *_RESULT)
    rows = [
        row(tooltip(group["name"]), columns, group, f'data-axis="{number}" data-group="{index}"', index)
        for index, group in enumerate(groups)
    ]
    caption = f"<b>{escape(axis['title'])}</b> {escape(axis['note'])}"
    return table(f"axis-{axis['key']} sortable", caption, axis["title"].lower(), columns, rows)


def _spread(report: dict[str, Any], sizes: Sequence[dict[str, Any]]) -> str:
    """Tables of size against number of positives and against level."""
    strides = report["recipe"]["strides"]
    bins = [Column(f"bin{i}", "share", name, "heat") for i, name in enumerate(report["bins"])]
    levels = [Column(f"level{i}", "share", f"stride {stride:g}", "heat") for i, stride in enumerate(strides)]
    axis = next(i for i, axis in enumerate(report["axes"]) if axis["key"] == "size")
    tables = []
    for name, caption, columns in (
        ("histogram", "<b>Positives per object</b> share of the objects of each size", bins),
        ("levels", "<b>Levels</b> share of the positives of each size", levels),
    ):
        rows = [
            row(escape(group["name"]), columns, _shares(group), f'data-axis="{axis}" data-group="{index}"', index)
            for index, group in enumerate(sizes)
        ]
        tables.append(table(f"{name} sortable", caption, "size", columns, rows))
    return "".join(tables)


def _shares(group: dict[str, Any]) -> dict[str, Any]:
    objects, positives = group["objects"], group["positives"]
    bins = {f"bin{i}": count / objects if objects else None for i, count in enumerate(group["histogram"])}
    return bins | {f"level{i}": count / positives if positives else None for i, count in enumerate(group["by_level"])}


def _advice(entries: Sequence[dict[str, Any]], objects: int) -> str:
    if not entries:
        return '<li class="fine">Nothing found that does not fit.</li>'
    return "".join(
        f"<li><strong>{entry['objects']:,} of {objects:,} objects</strong> "
        f"({written('share', entry['objects'] / max(objects, 1))}) {escape(entry['what'])}. "
        f"<span class='soft'>{escape(entry['help'])}</span></li>"
        for entry in entries
    )


def _anchors(anchors: dict[str, Any]) -> str:
    if not anchors:
        return ""
    columns = (
        Column("mean_iou", "mean", "mean best IoU"),
        Column("under_half", "share", "objects under 0.5", "bar bad"),
    )
    rows = [row("the recipe’s", columns, anchors["recipe"], "", 0)]
    for count, step in enumerate(anchors["steps"], start=1):
        advised = " (enough)" if count == anchors["enough"] else ""
        rows.append(row(f"{count} fitted{advised}", columns, step, f'data-anchors="{count}"', count))
    caption = "<b>Anchors</b> fitted by k-means, against those of the recipe, centred on each object"
    fitted = table("fitted sortable", caption, "anchors", columns, rows)
    drawing = (
        '<div class="anchors panel needs-script"><label>k-means: <output id="k-value"></output><br>'
        f'<input id="k" type="range" min="1" max="{len(anchors["steps"])}" value="{anchors["enough"]}"></label>'
        '<svg role="img" aria-label="The fitted anchors around one centre"></svg>'
        '<p class="soft">Width × height in pixels of the network’s input: <code id="shapes"></code></p></div>'
    )
    return f'<p>{escape(anchors["advice"])}</p><div class="grid">{fitted}{drawing}</div>'


def _size(size: Any) -> str:
    return " × ".join(map(str, size)) if isinstance(size, (list, tuple)) else str(size)
