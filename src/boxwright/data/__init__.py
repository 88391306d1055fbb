"""Annotated images: open any known format, check it, convert it, augment it, batch it."""

from boxwright.extras import needs_extra

with needs_extra("train"):
    from boxwright.data.check import Report, check_dataset
    from boxwright.data.findings import Finding
    from boxwright.data.index import DataIndex, open_dataset
    from boxwright.data.records import ImageRecord

__all__ = ["DataIndex", "Finding", "ImageRecord", "Report", "check_dataset", "open_dataset"]
