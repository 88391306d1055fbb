"""The report of a single run, as `boxwright train` writes it into the run folder."""

import json
from pathlib import Path

from boxwright.data.index import DataIndex
from boxwright.engine import Run
from boxwright.engine.score import open_data
from boxwright.files import write_text
from boxwright.study.comparison.contestants import shared_weights
from boxwright.study.comparison.markdown import compare_markdown
from boxwright.study.comparison.page import compare_page
from boxwright.study.comparison.runs import measure
from boxwright.study.comparison.summary import Entry, summarise

__all__ = ["write_report"]


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
    write_text(run.path / "report.json", json.dumps(report))
    write_text(run.path / "report.md", compare_markdown(report))
    write_text(run.path / "report.html", compare_page(report))
    return run.path / "report.html"
