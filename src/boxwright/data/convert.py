"""Write a data set in another format, complete with its images, so that reading it again gives the same records."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal
from xml.sax.saxutils import escape

import yaml

from boxwright.counts import counted
from boxwright.data.coco import coco_content
from boxwright.data.files import new_folder, read_header
from boxwright.data.index import DataIndex
from boxwright.data.readers.voc import ZERO_BASED
from boxwright.data.readers.yolo import label_file
from boxwright.data.records import ImageRecord
from boxwright.errors import DataError

Named = list[tuple[str, ImageRecord]]
"""The images of a split: name relative to the image folder, and record."""


def convert(index: DataIndex, dst: str | Path, to: Literal["coco", "voc", "yolo"]) -> list[str]:
    """Write every split with its images to the new folder `dst`, and return notes on what the format cannot hold.

    Boxes (in YOLO, fractions: to float32 rounding), crowd flags (not in YOLO), class names, image names and splits
    survive a round trip. The folder appears complete or not at all.

    Raises:
        DataError: `dst` exists and is not empty, an image is missing, or two images would get the same name.
    """
    if to not in _WRITERS:
        raise DataError(f"cannot convert to {to!r}; choose one of: {', '.join(_WRITERS)}")
    with new_folder(Path(dst)) as target:
        return _WRITERS[to](index, target)


def _to_coco(index: DataIndex, target: Path) -> list[str]:
    """Write `annotations/instances_<split>.json` and `images/<split>/`."""
    ids = list(index.category_ids)
    if ids != sorted(set(ids)) or min(ids, default=1) < 1:
        ids = list(range(1, len(ids) + 1))  # ids whose order is that of the labels
    for split in index.splits:
        named = _named(index, split)
        _copy(named, target / "images" / split)
        content = coco_content(named, index.class_names, ids)
        _write(target / "annotations" / f"instances_{split}.json", json.dumps(content))
    return []


def _to_voc(index: DataIndex, target: Path) -> list[str]:
    """Write `Annotations/`, `ImageSets/Main/`, `JPEGImages/` and the class order; names are flattened to one folder."""
    used: dict[str, Path] = {}
    for split in index.splits:
        named = [(name.replace("/", "_"), record) for name, record in _named(index, split)]
        for name, record in named:
            stem = Path(name).stem
            if used.setdefault(stem, record.path) != record.path:
                raise DataError(f"{record.path} and {used[stem]} would both become Annotations/{stem}.xml; rename one")
            _write(target / "Annotations" / f"{stem}.xml", _voc_xml(name, record, index.class_names))
        _copy(named, target / "JPEGImages")
        stems = "".join(f"{Path(name).stem}\n" for name, _ in named)
        _write(target / "ImageSets" / "Main" / f"{split}.txt", stems)
    _write(target / "classes.txt", "".join(f"{name}\n" for name in index.class_names))
    return ["the area of annotations (COCO's, of masks) is not kept: Pascal VOC has none"] if _own_areas(index) else []


def _voc_xml(name: str, record: ImageRecord, class_names: tuple[str, ...]) -> str:
    objects = "".join(
        f"  <object><name>{escape(class_names[label])}</name><difficult>{int(crowd)}</difficult>\n"
        f"    <bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>\n"
        f"  </object>\n"
        for box, label, crowd, _ in _objects(record)
    )
    return (
        f"<annotation>\n  <filename>{escape(name)}</filename>\n"
        f"  <source><database>{ZERO_BASED}</database></source>\n"
        f"  <size><width>{record.width}</width><height>{record.height}</height></size>\n{objects}</annotation>\n"
    )


def _to_yolo(index: DataIndex, target: Path) -> list[str]:
    """Write `data.yaml`, `images/<split>/` and `labels/<split>/`."""
    left_out = 0
    for split in index.splits:
        named = _named(index, split)
        _copy(named, target / "images" / split)
        named = [(name, _upright(record)) for name, record in named]
        used: dict[Path, Path] = {}
        for name, record in named:
            labels = label_file(target / "images" / split, name)
            if used.setdefault(labels, record.path) != record.path:
                both = f"{record.path} and {used[labels]}"
                raise DataError(f"{both} would both become {labels.relative_to(target)}; rename one")
            objects = [(box, label) for box, label, crowd, _ in _objects(record) if not crowd]
            left_out += len(record.labels) - len(objects)
            _write(labels, "".join(_yolo_line(box, label, record) for box, label in objects))
    folders = {split: f"images/{split}" for split in index.splits}
    content = folders | {"names": dict(enumerate(index.class_names))}
    _write(target / "data.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    return [f"{counted(left_out, 'crowd region')} left out: YOLO cannot mark them"] if left_out else []


def _upright(record: ImageRecord) -> ImageRecord:
    """Return a record in the frame of the upright picture, in which YOLO's fractions are read.

    Only where the annotation is in the frame of the stored pixels, and EXIF says that these lie on their side.
    """
    header, size = read_header(record.path), (record.width, record.height)
    if header.orientation < 5 or header.width == header.height or size != (header.width, header.height):
        return record
    boxes = record.boxes[:, [1, 0, 3, 2]]  # the transposition; EXIF's codes differ in what is mirrored after it
    if header.orientation in (6, 7):
        boxes[:, [0, 2]] = record.height - boxes[:, [2, 0]]
    if header.orientation in (7, 8):
        boxes[:, [1, 3]] = record.width - boxes[:, [3, 1]]
    return replace(record, width=record.height, height=record.width, boxes=boxes)


def _yolo_line(box: list[float], label: int, record: ImageRecord) -> str:
    x1, y1, x2, y2 = box
    center = (x1 + x2) / 2 / record.width, (y1 + y2) / 2 / record.height
    size = (x2 - x1) / record.width, (y2 - y1) / record.height
    return " ".join(map(str, (label, *center, *size))) + "\n"


def _named(index: DataIndex, split: str) -> Named:
    records = index.split(split)
    return [(records.name(i), records[i]) for i in range(len(records))]


def _objects(record: ImageRecord) -> list[tuple[list[float], int, bool, float]]:
    """Return the objects of an image as Python numbers: box, label, crowd, area."""
    columns = (record.boxes, record.labels, record.crowd, record.area)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _own_areas(index: DataIndex) -> bool:
    """Tell whether any annotation has an area that is not that of its box."""
    for split in index.splits:
        for record in index.split(split):
            sides = record.boxes[:, 2:] - record.boxes[:, :2]
            if not sides.prod(dim=1).allclose(record.area, rtol=1e-3):
                return True
    return False


def _copy(named: Named, folder: Path) -> None:
    """Copy the images of a split to a folder."""
    for name, record in named:
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(record.path, place)
        except OSError as error:
            raise DataError(f"{record.path}: cannot be copied to {place} ({error.strerror})") from error


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


_WRITERS: dict[str, Callable[[DataIndex, Path], list[str]]] = {"coco": _to_coco, "voc": _to_voc, "yolo": _to_yolo}
