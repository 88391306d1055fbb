"""The report of a comparison, or of one run, as an HTML page that needs no network."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from boxwright.study.comparison import page_tables as tables
from boxwright.study.comparison.page_images import case_style, cases
from boxwright.study.comparison.wording import commands, facts
from boxwright.study.templates import asset, embedded, fill

__all__ = ["COLOURS", "compare_page"]

# told apart by people who see red and green alike, and legible on white and on black (after Okabe & Ito 2008)
COLOURS: Final = ("#3b82c4", "#d97706", "#0d9668", "#c2569b", "#7c6ee6", "#b8860b", "#4aa3c7", "#8a8f98")


def compare_page(report: Mapping[str, Any]) -> str:
    """Write the page of a report of `summarise`."""
    from plotly.offline import get_plotlyjs

    several = len(report["recipes"]) > 1
    verdict = report["verdict"]
    return fill(
        "compare.html",
        title="Which criterion is better here?" if several else "Report of a run",
        headline=escape(verdict["headline"]),
        verdict=_verdict(verdict),
        facts=escape(facts(report)),
        css=asset("page.css", "compare.css") + _colours(len(report["recipes"])) + case_style(report["images"]),
        legend="Recipes" if several else "Recipe",
        recipes="".join(_choice(index, recipe["name"]) for index, recipe in enumerate(report["recipes"])),
        sections="\n".join(_sections(report)),
        footer=f"boxwright {escape(report['boxwright'])}. Also written: the same numbers as Markdown and JSON.",
        data=embedded(_drawn(report)),
        plotly=get_plotlyjs(),
        script=asset("tables.js", "charts.js", "compare.js"),
    )


def _sections(report: Mapping[str, Any]) -> Sequence[str]:
    """Return the sections of the page, from the verdict's evidence to how it was made."""
    several = len(report["recipes"]) > 1
    tall = max(90 + 34 * len(report["pairs"]), 240)
    noise = [
        _chart("seeds", "AP of every seed", tall=tall),
        _chart("pairs", "Differences with 95 % intervals", tall=tall),
        tables.pairs(report),
    ]
    learning = [_chart("learning", "Validation", _LEARNING), _chart("loss", "Training", _LOSS)]
    kinds = [_chart("sizes", "AP by size"), _chart("classes", "AP against training objects"), tables.classes(report)]
    curves = [
        _chart("precision", "Precision against recall", _IOU),
        _chart("calibration", "How often a score is right"),
    ]
    errors = [_chart("errors", "AP50 that errors cost", style="wide"), tables.errors(report)]
    seeds = "Mean ± deviation over seeds. Choose a heading to sort by it." if several else ""
    parts = [_section("Recipes" if several else "Numbers", seeds, tables.recipes(report))]
    if several:
        parts.append(_section("Is the difference more than noise?", _NOISE, _grid(noise)))
    parts += [
        _section("Learning", "Lines are means over seeds, bands what they span." if several else "", _grid(learning)),
        _section("Sizes and classes", "", _grid(kinds)),
        _section("Precision, recall, calibration", _CALIBRATION, _grid(curves)),
        _section("Errors", _ERRORS, _grid(errors)),
    ]
    if report["images"]:
        parts.append(_section("Where recipes differ most" if several else "Where it errs most", "", cases(report)))
    if report.get("failures"):
        parts.append(_section("Missing runs", "", _missing(report["failures"])))
    if several:
        parts.append(_section("What was the same, and what was not", "", _differences(report)))
    repeat = f'<pre tabindex="0" aria-label="Commands">{escape(commands(report))}</pre>'
    parts.append(_section("Runs, and how to repeat them", "", tables.runs(report) + repeat))
    return parts


_NOISE: Final = (
    "A difference counts if it is larger than another choice of seeds and of validation images explains: deviation "
    "over seeds and paired bootstrap over images together, corrected for the number of pairs (Holm). Thin lines are "
    "the 95 % intervals; the broad ones inside them are those of the images alone."
)
_ERRORS: Final = (
    "The kinds of TIDE (Bolya et al. 2020): AP at IoU 0.5 that would be gained without the errors of each kind. "
    "Localisation: the right class, overlap 0.1 to 0.5. Classification: another class, overlap at least 0.5. "
    "Both: wrong class and overlap 0.1 to 0.5. Duplicate: the object was found already. Background: no object. "
    "Missed: an object that nothing points to."
)
_CALIBRATION: Final = (
    "Right: matched with an object of its class at IoU 0.5. On the diagonal a score can be read as a probability; "
    "the calibration error in the first table is the mean distance from it. Ranking losses do not aim at it."
)
_LEARNING: Final = ("learning-metric", "Metric", ("AP", "AP50", "AP75"))
_LOSS: Final = ("loss-term", "Loss term", ())
_IOU: Final = ("precision-iou", "IoU", ("0.50", "0.75", "0.50:0.95"))


def _section(title: str, note: str, content: str) -> str:
    text = f'<p class="soft">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{text}{content}</section>"


def _chart(
    name: str,
    title: str,
    choice: tuple[str, str, Sequence[str]] | None = None,
    *,
    tall: int | None = None,
    style: str = "",
) -> str:
    """A place for a chart, filled by the page's script."""
    select = ""
    if choice is not None:
        key, label, values = choice
        options = "".join(f"<option>{value}</option>" for value in values)
        select = f'<label>{label} <select id="{key}">{options}</select></label>'
    height = f' style="--tall: {tall}px; --tall-narrow: {tall}px"' if tall else ""
    return (
        f'<div class="chart needs-script {style}"><header><h3>{escape(title)}</h3>{select}</header>'
        f'<div class="plot" id="chart-{name}" role="img" aria-label="Chart: {escape(title)}"{height}></div></div>'
    )


def _grid(parts: Sequence[str]) -> str:
    return f'<div class="grid">{"".join(parts)}</div>'


def _verdict(verdict: Mapping[str, Any]) -> str:
    text = f'<p class="verdict-text">{escape(verdict["text"])}</p>' if verdict["text"] else ""
    settle = "".join(f"<li>{escape(line)}</li>" for line in verdict["settle"])
    return text + (f'<ul class="settle">{settle}</ul>' if settle else "")


def _choice(index: int, name: str) -> str:
    return (
        f'<label><input type="checkbox" data-recipe="{index}" checked>'
        f'<span class="key c{index}"></span>{escape(name)}</label>'
    )


def _colours(count: int) -> str:
    return "".join(f".c{index} {{ --colour: {COLOURS[index % len(COLOURS)]}; }}" for index in range(count))


def _differences(report: Mapping[str, Any]) -> str:
    held = ", ".join(f"<code>{section}</code>" for section in report["held"])
    parts = []
    for index, recipe in enumerate(report["recipes"]):
        lines = [f"<li><code>{escape(line)}</code></li>" for line in recipe["differs"]]
        lines += [f"<li>as the first recipe has it: <code>{escape(line)}</code></li>" for line in recipe["held"]]
        same, total = recipe["shared_parameters"], recipe["parameters"]
        lines.append(f"<li>{same:,} of {total:,} parameters start as in the first recipe</li>")
        name = f'<span class="key c{index}"></span> {escape(recipe["name"])}'
        parts.append(
            f'<div class="panel" data-recipe="{index}"><h3>{name}</h3>'
            f'<p class="soft">{escape(recipe["description"])}</p><ul>{"".join(lines)}</ul></div>'
        )
    return (
        f"<p>Held fixed, as the first recipe has them: {held}, and by seed the order and augmentation of the images. "
        f"What else differs, besides the criterion, because the criterion is made for it:</p>"
        f'<div class="differs">{"".join(parts)}</div>'
    )


def _missing(failures: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        f"<li><strong>{escape(failure['name'])}, seed {failure['seed']}</strong>: {escape(failure['reason'])}</li>"
        for failure in failures
    ]
    return f'<ul class="advice missing">{"".join(lines)}</ul>'


def _drawn(report: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a report that the charts need."""
    keys = ("name", "metrics", "classes", "errors", "precision", "calibration")
    return {
        "colours": [COLOURS[index % len(COLOURS)] for index in range(len(report["recipes"]))],
        "kinds": report["kinds"],
        "pairs": report["pairs"],
        "classes": report["data"]["classes"],
        "sizes": report["data"]["sizes"],
        "recipes": [
            {key: recipe[key] for key in keys} | {"curves": [run["curve"] for run in recipe["runs"]]}
            for recipe in report["recipes"]
        ],
    }
