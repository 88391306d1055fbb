"""Instruments: what a criterion does with a data set, and which is better there."""

from boxwright.study.ambiguity import ambiguous_csv
from boxwright.study.comparison import compare
from boxwright.study.html import inspect_page
from boxwright.study.report import inspect_data
from boxwright.study.run_report import write_report

__all__ = ["ambiguous_csv", "compare", "inspect_data", "inspect_page", "write_report"]
