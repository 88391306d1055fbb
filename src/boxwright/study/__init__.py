"""Instruments: what a criterion does with a data set."""

from boxwright.study.html import inspect_page
from boxwright.study.report import inspect_data

__all__ = ["inspect_data", "inspect_page"]
