"""Annotation formats. Each module tells whether a path is its format, which files it reads, and what they say.

A reader is a module with `NAME`, `TITLE`, `VERSION` (raise it when the same files would give another result),
`sniff(path)`, `sources(request)` (the files whose size and time key the cache) and `read(request)`.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, cast

from boxwright.counts import counted
from boxwright.data.annotations import Annotations, Request
from boxwright.data.readers import coco, csv, voc, yolo
from boxwright.errors import DataError


class Reader(Protocol):
    """What a reader module offers."""

    NAME: str
    TITLE: str
    VERSION: int

    def sniff(self, path: Path) -> bool:
        """Tell whether the path looks like this format."""

    def sources(self, request: Request) -> Iterable[Path]:
        """Return every file that the result depends on."""

    def read(self, request: Request) -> Annotations:
        """Return what the files say."""


# In order of preference where a folder holds several formats: the richest first.
READERS = {module.NAME: cast(Reader, module) for module in (coco, voc, yolo, csv)}


_PACKED = {".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar"}


def find_reader(path: Path, format: str | None = None) -> Reader:
    """Return the reader asked for, or the first that recognises the path; `DataError` when none does."""
    if not path.exists():
        if any(re.fullmatch("[a-z][a-z0-9]+:", part) for part in path.parts):
            raise DataError(f"{path}: an address, and only files are read: download the data set first")
        raise DataError(f"{path}: no such file or folder; give an annotation file or the folder of a data set")
    if path.is_file() and path.suffix.lower() in _PACKED:
        raise DataError(f"{path}: packed; unpack it, and name the folder that comes out")
    if format is not None:
        if format not in READERS:
            raise DataError(f"format {format!r} is not known; choose one of: {', '.join(READERS)}")
        return READERS[format]
    reader = next((reader for reader in READERS.values() if reader.sniff(path)), None)
    if reader is None:
        below = (child for child in _folders_below(path) if any(one.sniff(child) for one in READERS.values()))
        if (inner := next(below, None)) is not None:
            raise DataError(f"{path} is no data set, but {inner} is one: name that folder")
        raise DataError(
            f"{path}: no annotations recognised; expected a COCO .json (or annotations/*.json), "
            "Pascal VOC Annotations/, YOLO data.yaml or images/ + labels/, or a .csv; name the format with --format"
        )
    return reader


def _folders_below(path: Path) -> Iterator[Path]:
    """Return the folders one and two levels below, in which archives leave what they hold."""
    for pattern in ("[!.]*", "[!.]*/[!.]*"):
        yield from sorted(child for child in path.glob(pattern) if child.is_dir())


def read_annotations(reader: Reader, request: Request) -> Annotations:
    """Return what the files say, each image in the splits asked for, or else in those found."""
    annotations = reader.read(request)
    if request.splits:
        annotations.prefer(request.splits)
    return annotations


def describe(reader: Reader, images: int, classes: Sequence[str], splits: Iterable[str]) -> str:
    """Return the line that names what was found: `found: Pascal VOC, 364 images, 3 classes, splits train/val/test`."""
    contents = f"{counted(images, 'image')}, {counted(len(classes), 'class')}"
    return f"found: {reader.TITLE}, {contents}, splits {'/'.join(splits)}"
