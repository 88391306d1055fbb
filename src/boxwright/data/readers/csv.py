"""CSV: one box per row, with a header that names the columns in any order and by any usual name."""

import csv
import io
from collections.abc import Iterator, Sequence
from os.path import isfile
from pathlib import Path

from boxwright.data.annotations import Annotations, Request
from boxwright.data.files import (
    broken,
    class_name,
    leaves_root,
    name_below,
    name_splits,
    parse_length,
    posix_name,
    read_head,
    read_text,
    split_name,
)
from boxwright.errors import DataError

NAME = "csv"
TITLE = "CSV"
VERSION = 4

COLUMNS = {
    "filename": ("filename", "file_name", "file", "image", "image_name", "image_path", "path", "image_id"),
    "class": ("class", "class_name", "label", "label_name", "category", "category_name", "cell_type", "name", "object"),
    "xmin": ("xmin", "x_min", "x1", "left"),
    "ymin": ("ymin", "y_min", "y1", "top"),
    "xmax": ("xmax", "x_max", "x2", "right"),
    "ymax": ("ymax", "y_max", "y2", "bottom"),
    "width": ("width", "image_width", "img_width"),
    "height": ("height", "image_height", "img_height"),
}
_OPTIONAL = {"width", "height"}
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def sniff(path: Path) -> bool:
    """Tell whether the path is a CSV file, or a folder with one."""
    if path.is_file():
        return path.suffix.lower() == ".csv"
    return bool(_find(path))


def sources(request: Request) -> Iterator[Path]:
    """Return the class list and the CSV files."""
    yield request.class_file
    yield from _splits(request).values()


def read(request: Request) -> Annotations:
    """Return images and boxes of every file; classes are the names found, sorted. A row without a box is background."""
    result = Annotations(places="line")
    for split, file in _splits(request).items():
        _read_file(file, split, request, result)
    result.set_named_classes(request)
    return result


def _splits(request: Request) -> dict[str, Path]:
    path = request.path
    chosen = request.choose({split_name(path.stem): path} if path.is_file() else _find(path))
    if not chosen:
        raise DataError(f"{path}: no .csv file with columns filename, class, xmin, ymin, xmax, ymax found here")
    return chosen


def _find(root: Path) -> dict[str, Path]:
    """Find the files whose header names the columns; if none does, all, so that the error can say what they lack."""
    found, files = [], sorted(root.glob("[!.]*.csv"))
    for file in files:
        header = read_head(file).decode("utf-8-sig", errors="replace").splitlines()[:1]
        if not _missing(_columns(next(csv.reader(header, delimiter=_delimiter(header)), []))):
            found.append(file)
    return name_splits((file.stem, file) for file in found or files)


def _delimiter(header: Sequence[str]) -> str:
    """Return what separates the columns of the first line: a comma, or as spreadsheets write, a semicolon or tab."""
    return max(",;\t", key="".join(header[:1]).count)


def _columns(header: list[str]) -> dict[str, int]:
    """Return our column name → position, by the usual names of each."""
    names = [name.strip().lower() for name in header]
    return {
        ours: names.index(theirs[0]) for ours, usual in COLUMNS.items() if (theirs := [n for n in usual if n in names])
    }


def _missing(columns: dict[str, int]) -> list[str]:
    return [name for name in COLUMNS if name not in columns and name not in _OPTIONAL]


def _read_file(file: Path, split: str, request: Request, result: Annotations) -> None:
    """Add one file's rows."""
    text = read_text(file)
    delimiter = _delimiter(text[:4096].splitlines())
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    folder: Path | None = None
    numbers: dict[str, int] = {}
    try:
        columns = _columns(header := next(rows, []))
        if missing := _missing(columns):
            raise broken(file, f"no column for {', '.join(missing)} in the header {','.join(header)[:200]!r}", line=1)
        for row in rows:
            if not row:
                continue
            if len(row) < len(header):
                message = f"{len(row)} values for {len(header)} columns"
                result.problem("annotation", message, file, rows.line_num)
                continue
            cells = {name: row[position].strip() for name, position in columns.items()}
            if delimiter != ",":
                cells |= {side: cells[side].replace(",", ".") for side in _CORNERS}  # decimal commas
            cells["filename"] = name_below(cells["filename"], request.images or request.root)
            if leaves_root(cells["filename"]):
                message = f"filename {cells['filename']!r} leaves the data folder"
                result.problem("file-name", message, file, rows.line_num)
                continue
            name = posix_name(cells["filename"])
            folder = folder or _image_folder(request, name)
            if name not in numbers:
                size = (parse_length(cells.get("width")), parse_length(cells.get("height")))
                numbers[name] = result.add_image(name, folder, None, size, split, file)
            _add_box(numbers[name], cells, file, rows.line_num, result)
    except csv.Error as error:
        raise broken(file, f"not valid CSV ({error})", rows.line_num) from error


def _add_box(number: int, cells: dict[str, str], file: Path, line: int, result: Annotations) -> None:
    """Add the box of one row, unless the row has none."""
    corners = [cells[name] for name in _CORNERS]
    if not any(corners):
        return
    try:
        x1, y1, x2, y2 = map(float, corners)
    except ValueError:
        result.problem("annotation", f"xmin, ymin, xmax, ymax must be numbers, found {corners}", file, line)
        return
    if not (name := class_name(cells["class"])):
        result.problem("annotation", "a box without a class", file, line)
        return
    result.add_box(number, (x1, y1, x2, y2), name, line)


def _image_folder(request: Request, name: str) -> Path:
    """Return the folder that holds the first image: the first of the usual places that has it."""
    root = request.root
    usual = [root / "images", root / "JPEGImages", root, root.parent / "images"]
    places = [request.images] if request.images is not None else usual
    return next((place for place in places if isfile(place / name)), places[0])
