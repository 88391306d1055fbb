"""Small data sets in every format, written for tests: two classes, three images of 100x80, known boxes."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

SIZE = (100, 80)
BOXES = {
    "a.png": [("cat", (10.0, 20.0, 30.0, 50.0)), ("dog", (5.0, 5.0, 99.0, 79.0))],
    "b.png": [("dog", (1, 2, 3, 4))],
}
NAMES = ("a.png", "b.png", "c.png")  # c is background


def write_images(folder: Path, names: tuple[str, ...] = NAMES, size: tuple[int, int] = SIZE) -> Path:
    """Write images that differ from each other."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        Image.new("RGB", size, (i * 7 % 256, i // 37, 50)).save(folder / name)
    return folder


def coco_content(**changes: Any) -> dict[str, Any]:
    """Return the content of a COCO file with category ids 3 (cat) and 7 (dog)."""
    ids = {"cat": 3, "dog": 7}
    objects = [(i, label, box) for i, name in enumerate(NAMES) for label, box in BOXES.get(name, [])]
    return {
        "images": [{"id": 10 + i, "file_name": n, "width": SIZE[0], "height": SIZE[1]} for i, n in enumerate(NAMES)],
        "annotations": [
            {"id": 100 + k, "image_id": 10 + i, "category_id": ids[c], "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0}
            for k, (i, c, (x1, y1, x2, y2)) in enumerate(objects)
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    } | changes


def write_coco(root: Path, content: dict[str, Any] | None = None, split: str = "train") -> Path:
    """Write a COCO file with its images and return it."""
    write_images(root / "images")
    file = root / "annotations" / f"instances_{split}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content or coco_content()))
    return file


def voc_xml(name: str, objects: str = "", extra: str = "") -> str:
    """Return a VOC file."""
    size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height></size>"
    return f"<annotation>\n<filename>{name}</filename>{extra}\n{size}\n{objects}</annotation>\n"


def voc_object(label: str, box: tuple[float, ...], difficult: int = 0) -> str:
    """Return a VOC object on one line."""
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{label}</name><difficult>{difficult}</difficult><bndbox>{corners}</bndbox></object>\n"


def write_voc(root: Path, files: dict[str, str] | None = None) -> Path:
    """Write a VOC folder and return it."""
    write_images(root / "JPEGImages")
    (root / "Annotations").mkdir()
    for name in NAMES:
        objects = "".join(voc_object(label, box) for label, box in BOXES.get(name, []))
        (root / "Annotations" / f"{name[0]}.xml").write_text(voc_xml(name, objects))
    for name, text in (files or {}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def write_yolo(root: Path, labels: dict[str, str] | None = None, names: str | None = "cat\ndog\n") -> Path:
    """Write a YOLO folder (images, labels, classes.txt) and return it."""
    write_images(root / "images")
    (root / "labels").mkdir()
    for name, objects in BOXES.items():
        lines = []
        for label, (x1, y1, x2, y2) in objects:
            values = ((x1 + x2) / 200, (y1 + y2) / 160, (x2 - x1) / 100, (y2 - y1) / 80)
            lines.append(" ".join(map(str, (("cat", "dog").index(label), *values))))
        (root / "labels" / f"{name[0]}.txt").write_text("\n".join(lines))
    for name, text in (labels or {}).items():
        (root / "labels" / name).write_text(text)
    if names is not None:
        (root / "classes.txt").write_text(names)
    return root


def write_csv(root: Path, text: str | None = None, name: str = "train.csv") -> Path:
    """Write a CSV file with its images and return it; c.png is a row without a box."""
    write_images(root / "images")
    rows = [f"{b[2]},{c},{n},{b[0]},{b[3]},{b[1]}" for n, objects in BOXES.items() for c, b in objects]
    (root / name).write_text(text or "\n".join(["xmax,class,filename,xmin,ymax,ymin", *rows, ",,c.png,,,"]))
    return root / name
