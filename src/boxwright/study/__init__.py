"""Instruments: what a criterion does with a data set, and which is better there."""

from boxwright.study.comparison import compare
from boxwright.study.html import inspect_page
from boxwright.study.relabel import relabel_csv
from boxwright.study.report import inspect_data
from boxwright.study.run_report import write_report

__all__ = ["compare", "inspect_data", "inspect_page", "relabel_csv", "write_report"]
