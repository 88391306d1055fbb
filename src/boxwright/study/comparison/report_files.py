"""Reports as files: the same in HTML, Markdown and JSON; that of a single run goes into its folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from boxwright.data.index import DataIndex
from boxwright.engine import Run
from boxwright.engine.score import open_data
from boxwright.files import write_text
from boxwright.study.comparison.contestants import shared_weights
from boxwright.study.comparison.markdown import compare_markdown
from boxwright.study.comparison.page import compare_page
from boxwright.study.comparison.runs import measure
from boxwright.study.comparison.summary import Entry, summarise

__all__ = ["save_report", "write_report"]


def save_report(report: Mapping[str, Any], stem: Path) -> Path:
    """Write a report of `summarise` as `stem` with `.json`, `.md` and `.html`; return the page."""
    write_text(stem.with_suffix(".json"), json.dumps(report))
    write_text(stem.with_suffix(".md"), compare_markdown(report))
    write_text(page := stem.with_suffix(".html"), compare_page(report))
    return page


def write_report(run: Run, index: DataIndex | None = None) -> Path | None:
    """Write `report.html`, `report.md` and `report.json` of a run that this process has just trained.

    Args:
        run: the run.
        index: its data set, by default opened again.

    Returns:
        The page; None where the validation images have nothing to find, so that there is nothing to report.
    """
    if not (run.path / "predictions.json").is_file():
        return None
    measure(run)
    recipe = run.recipe
    [(_, parameters)] = shared_weights([recipe], run.classes)
    facts = {"description": recipe.description, "epochs": recipe.schedule.epochs, "parameters": parameters}
    report = summarise([Entry(recipe.name, [run], facts)], index or open_data(run.path, None))
    return save_report(report, run.path / "report")
