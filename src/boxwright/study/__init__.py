"""Instruments: what a criterion does with a data set, and which is better there."""

from boxwright.extras import needs_extra

with needs_extra("train"):
    from boxwright.study.comparison.compare import compare
    from boxwright.study.comparison.report_files import write_report
    from boxwright.study.inspection.page import inspect_page
    from boxwright.study.inspection.relabel import relabel_csv
    from boxwright.study.inspection.report import inspect_data

__all__ = ["compare", "inspect_data", "inspect_page", "relabel_csv", "write_report"]
