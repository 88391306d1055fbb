"""The tables of a comparison's page: complete without a script, sorted and filtered by one."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, Final

from boxwright.counts import counted
from boxwright.study.tables import framed_table, heading, tooltip

__all__ = ["classes", "errors", "pairs", "recipes", "runs"]

_SIZES: Final = ("AP_small", "AP_medium", "AP_large")
_SHOWN: Final = ("AP", "AP50", "AP75", *_SIZES, "AR100")  # the report has more
_WORDS: Final = ("ahead beyond the noise", "machine", "with", "folder")  # columns that hold no numbers
_TITLES: Final = {"AP_small": "AP small", "AP_medium": "AP medium", "AP_large": "AP large"}


def recipes(report: Mapping[str, Any]) -> str:
    """Write the main table: a row for each recipe."""
    found = report["recipes"]
    best = {name: _highest([recipe["metrics"][name]["mean"] for recipe in found]) for name in _SHOWN}
    titles = (_TITLES.get(name, name) for name in _SHOWN)
    heads = _headings("recipe", *titles, "calibration error", "ms per step", "peak MB", "parameters, million")
    rows = []
    for index, recipe in enumerate(found):
        cells = []
        for name in _SHOWN:
            values = recipe["metrics"][name]
            cells.append(_spread(values, name, best=len(found) > 1 and values["mean"] == best[name]))
        cells.append(_spread(recipe["calibration_error"], "calibration", deviation=False))
        cells.append(_spread(recipe["seconds_per_step"], "step", 1e3, ",.0f", deviation=False))
        cells.append(_spread(recipe["peak_memory"], "memory", 1e-6, ",.0f", deviation=False))
        cells.append(_number(recipe.get("parameters"), "parameters", ".2f", 1e-6))
        rows.append(_row(_name(index, recipe["name"]), cells, f'data-recipe="{index}"'))
    caption = f"<b>COCO’s numbers</b> on {counted(report['data']['images'], 'image')}"
    return framed_table("recipes sortable", caption, heads, rows)


def pairs(report: Mapping[str, Any]) -> str:
    """Write the table of differences, the largest first."""
    names = [recipe["name"] for recipe in report["recipes"]]
    rows = []
    for pair in sorted(report["pairs"], key=lambda pair: -abs(pair["difference"])):
        first, second = pair["first"], pair["second"]
        ahead, behind = (first, second) if pair["difference"] >= 0 else (second, first)
        decided = f'<span class="yes">{escape(names[ahead])}</span>' if pair["significant"] else "nobody"
        cells = [
            _number(abs(pair["difference"]), "difference", ".3f"),
            _interval(pair["interval"], pair["difference"] < 0, "interval"),
            _interval(pair["image_interval"], pair["difference"] < 0, "image-interval"),
            _chance(pair["p_corrected"]),
            f'<td class="words" data-k="ahead">{decided}</td>',
            _number(pair["seeds_needed"], "seeds", "d"),
            _number(pair["images_needed"], "images", ",d"),
        ]
        label = f"{_name(ahead, names[ahead])} over {_name(behind, names[behind])}"
        rows.append(_row(label, cells, f'data-pair="{first} {second}"'))
    heads = _headings(
        "pair",
        "AP difference",
        "95 % interval",
        "by images alone",
        "p, corrected",
        "ahead beyond the noise",
        "or with seeds",
        "or with images",
    )
    caption = "<b>Pairs</b> the last columns say how many seeds, or how many validation images, would settle it"
    return framed_table("pairs sortable", caption, heads, rows)


def classes(report: Mapping[str, Any]) -> str:
    """Write AP by class beside the number of objects."""
    found = report["recipes"]
    rows = []
    for kind in report["data"]["classes"]:
        cells = [_number(kind["train"], "train", ",d"), _number(kind["val"], "val", ",d")]
        for index, recipe in enumerate(found):
            values = recipe["classes"][kind["name"]]
            cells.append(_spread(values, f"ap{index}", style="heat", attributes=f' data-recipe="{index}"'))
        rows.append(_row(tooltip(kind["name"]), cells))
    caption = "<b>AP by class</b> with the objects to learn from and those it is measured on"
    heads = [*_headings("class", "training objects", "validation objects"), *_recipe_headings(found)]
    return framed_table("classes sortable", caption, heads, rows)


def errors(report: Mapping[str, Any]) -> str:
    """Write the cost and number of errors of each kind."""
    found = report["recipes"]
    rows = []
    for kind in report["kinds"]:
        cells = []
        for index, recipe in enumerate(found):
            cost, count = recipe["errors"]["cost"][kind], recipe["errors"]["counts"][kind]
            number = "" if count["mean"] is None else f' <span class="pm">· {count["mean"]:,.0f}×</span>'
            cells.append(_spread(cost, f"cost{index}", after=number, attributes=f' data-recipe="{index}"'))
        rows.append(_row(kind, cells))
    caption = "<b>AP50 that errors cost</b> and how many there are in a run"
    return framed_table("errors sortable", caption, [*_headings("kind"), *_recipe_headings(found)], rows)


def runs(report: Mapping[str, Any]) -> str:
    """Write a row for each run."""
    rows = []
    for index, recipe in enumerate(report["recipes"]):
        for run in recipe["runs"]:
            cells = [
                _number(run["seed"], "seed", "d"),
                _number(run["metrics"]["AP"], "AP", ".3f"),
                _number(run["metrics"]["AP50"], "AP50", ".3f"),
                _number(run["operating_score"], "score", ".2f"),
                f'<td class="words">{escape(run["machine"])}</td>',
                f'<td class="words">torch {escape(str(run["packages"].get("torch", "?")))}</td>',
                f'<td class="words"><code>{escape(run["path"])}</code></td>',
            ]
            rows.append(_row(_name(index, recipe["name"]), cells, f'data-recipe="{index}"'))
    heads = _headings("recipe", "seed", "AP", "AP50", "score of best F1", "machine", "with", "folder")
    return framed_table("runs sortable", "<b>Runs</b>", heads, rows)


def _headings(*titles: str) -> list[str]:
    return [heading(escape(title), 'class="words"' if title in _WORDS else "") for title in titles]


def _recipe_headings(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Headings of a column for each recipe, which the page's script can hide."""
    return [heading(_name(i, recipe["name"]), f'data-recipe="{i}"') for i, recipe in enumerate(found)]


def _row(label: str, cells: Iterable[str], attributes: str = "") -> str:
    return f'<tr {attributes}><th scope="row">{label}</th>{"".join(cells)}</tr>'


def _name(index: int, name: str) -> str:
    return f'<span class="key c{index}"></span>{escape(name)}'


def _spread(
    values: Mapping[str, Any],
    key: str,
    factor: float = 1,
    form: str = ".3f",
    *,
    best: bool = False,
    deviation: bool = True,
    style: str = "",
    after: str = "",
    attributes: str = "",
) -> str:
    """A cell with mean ± deviation, sorted by the mean."""
    mean, apart = values["mean"], values["deviation"]
    classes = " ".join(filter(None, ("best" if best else "", style)))
    attributes += f' class="{classes}"' if classes else ""
    if mean is None:
        return f'<td data-k="{key}" data-v=""{attributes}>–</td>'
    heat = f' style="--heat:{mean:.3f}"' if "heat" in style else ""
    spread = f' <span class="pm">± {factor * apart:{form}}</span>' if deviation and apart is not None else ""
    return f'<td data-k="{key}" data-v="{mean!r}"{attributes}{heat}>{factor * mean:{form}}{spread}{after}</td>'


def _number(value: float | None, key: str, form: str, factor: float = 1) -> str:
    known = "" if value is None else repr(value)
    return f'<td data-k="{key}" data-v="{known}">{"–" if value is None else f"{factor * value:{form}}"}</td>'


def _chance(p: float | None) -> str:
    text = "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
    return f'<td data-k="p" data-v="{"" if p is None else repr(p)}">{text}</td>'


def _interval(interval: Sequence[float] | None, turned: bool, key: str) -> str:
    if interval is None:
        return f'<td data-k="{key}" data-v="">–</td>'
    low, high = (-interval[1], -interval[0]) if turned else interval
    text = f"{low:+.3f} … {high:+.3f}".replace("-", "−")
    return f'<td data-k="{key}" data-v="{low!r}">{text}</td>'


def _highest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
