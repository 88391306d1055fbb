"""YOLO: one text file per image with `class cx cy w h` in fractions of the image size, and a `data.yaml` or folders."""

import math
import re
from collections.abc import Iterator
from os.path import isfile
from pathlib import Path
from typing import Any

import yaml

from boxwright.counts import counted
from boxwright.data.annotations import Annotations, Request
from boxwright.data.files import (
    broken,
    class_name,
    image_size,
    leaves_root,
    list_files,
    list_images,
    name_splits,
    posix_name,
    read_lines,
    read_text,
    split_name,
)
from boxwright.data.findings import Finding, FindingError
from boxwright.errors import DataError

NAME = "yolo"
TITLE = "YOLO"
VERSION = 5

_SETS = ("train", "val", "valid", "test")
_SET = re.compile(rf"^({'|'.join(_SETS)})\s*:", re.MULTILINE)
_NAME_FILES = ("classes.txt", "obj.names", "labels/classes.txt", "predefined_classes.txt")


def sniff(path: Path) -> bool:
    """Tell whether the path is a data YAML, or a folder with one or with `images` and `labels`."""
    if path.is_file():
        return path.suffix.lower() in (".yaml", ".yml")
    return _yaml_file(path) is not None or bool(_find(path))


def sources(request: Request) -> Iterator[Path]:
    """Return the data YAML, name files, images (their sizes scale the boxes) and label files."""
    root = request.root
    files = [request.path, _yaml_file(root), _yaml_below(root), *(root / name for name in _NAME_FILES)]
    yield from (file for file in files if file is not None and file.is_file())
    for place in _splits(request).values():
        if place.is_file():
            yield place
        for folder, name in _images(request, place):
            yield folder / name
            if (label := label_file(folder, name)).is_file():
                yield label


def read(request: Request) -> Annotations:
    """Return images and boxes of every split; an image without a label file is background."""
    result = Annotations(places="line")
    highest, unlabelled = -1, 0
    file = request.path if request.path.is_file() else _yaml_file(request.path)
    pose = file is not None and "kpt_shape" in _read_yaml(file)
    for split, place in _splits(request).items():
        for folder, name in _images(request, place):
            labelled = (labels := label_file(folder, name)).is_file()
            highest = max(highest, _add(split, folder, name, labels, labelled, pose, result))
            unlabelled += not labelled
        _orphans(place, result)
    if unlabelled:
        result.notes.append(f"{counted(unlabelled, 'image')} without a label file, taken for background")
    names = _class_names(request, highest + 1, result)
    result.set_classes(range(len(names)), names, range(len(names)))
    return result


def _splits(request: Request) -> dict[str, Path]:
    """Return split → folder of images, or text file that lists them."""
    file = request.path if request.path.is_file() else _yaml_file(request.path)
    found = _from_yaml(file) if file is not None else _find(request.path)
    chosen = request.choose(found)
    if not chosen:
        raise DataError(f"{request.path}: no YOLO images found; expected data.yaml, or images/ and labels/")
    return chosen


def _yaml_file(root: Path) -> Path | None:
    """Return the folder's YAML file that names a set of images, where there is one."""
    candidates = [root / "data.yaml", *sorted(root.glob("*.yaml")), *sorted(root.glob("*.yml"))]
    return next((file for file in candidates if file.is_file() and _SET.search(read_text(file))), None)


def _yaml_below(root: Path) -> Path | None:
    return next((file for file in sorted(root.glob("*/data.yaml"))), None)


def _read_yaml(file: Path) -> dict[str, Any]:
    """Read a data YAML as lists, mappings and text: a class may be called "no" or "001", of which YAML makes others."""
    text = read_text(file)
    try:
        data = yaml.load(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        raise broken(file, f"not valid YAML ({problem})", mark.line + 1 if mark is not None else None) from error
    except (ValueError, RecursionError) as error:
        raise broken(file, f"not usable YAML ({error})") from error
    if not isinstance(data, dict):
        raise broken(file, f"expected keys such as train, val and names, found {type(data).__name__}")
    return data


def _from_yaml(file: Path) -> dict[str, Path]:
    """Return the splits of a data YAML; its folders must lie below the file's own folder."""
    data = _read_yaml(file)
    base = data.get("path")
    found = {}
    for key in _SETS:
        value = data.get(key)
        if value in (None, "", "null", "~"):
            continue
        if not isinstance(value, str):
            raise broken(file, f"{key} must be one folder or list file, found {value!r:.80}")
        found[split_name(key)] = _inside(file, posix_name(base) if isinstance(base, str) else "", posix_name(value))
    return found


def _inside(file: Path, base: str, value: str) -> Path:
    """Return the folder that a YAML means by a path: below its own folder, whatever `..` or `path` precede it.

    Exports often write `../train/images` for `train/images`, and a `path` of the machine they were made on.
    """
    parts = [part for part in Path(value).parts if part not in ("..", ".")]
    candidates = [Path(value), Path(base) / value, Path(*parts) if parts else Path()]
    for candidate in candidates:
        if not leaves_root(str(candidate)) and (file.parent / candidate).exists():
            return file.parent / candidate
    raise broken(file, f"{value!r} is not below {file.parent}; data outside the data folder is not read")


def _find(root: Path) -> dict[str, Path]:
    """Find the splits of a folder without YAML: `images/<split>`, `images`, `<split>/images`, or one for all.

    LabelImg writes both into one folder, with `classes.txt`; darknet and CVAT list the images of each split beside
    `obj.names`. A folder that holds splits of its own is none, but a data set below this folder.
    """
    images, labels = root / "images", root / "labels"
    if images.is_dir() and labels.is_dir():
        folders = sorted(child for child in images.glob("[!.]*") if child.is_dir() and (labels / child.name).is_dir())
        return name_splits((child.name, child) for child in folders) or {"train": images}
    pairs = sorted(root.glob("[!.]*/images")) if root.is_dir() else []
    if found := name_splits((pair.parent.name, pair) for pair in pairs if _find(pair.parent) == {"train": pair}):
        return found
    if (root / "obj.names").is_file():
        return name_splits((name, file) for name in _SETS if (file := root / f"{name}.txt").is_file())
    labelled = (root / "classes.txt").is_file() and any(
        (root / name).with_suffix(".txt").is_file() for name in list_images(root)
    )
    return {"train": root} if labelled else {}


def _images(request: Request, place: Path) -> Iterator[tuple[Path, str]]:
    """Return folder and name of each image of a split."""
    if place.is_dir():
        yield from ((place, name) for name in list_images(place))
        return
    names = [posix_name(line.strip()).removeprefix("./") for line in read_text(place).splitlines()]
    cut = _leading_parts(next(filter(None, names), ""), request.root)
    for number, whole in enumerate(names, start=1):
        name = "/".join(whole.split("/")[cut:])
        if name and leaves_root(name):
            message = f"image {name!r} leaves the data folder {request.root}"
            raise FindingError(Finding("file-name", message, place, number))
        if name:
            yield request.root, name


def _leading_parts(name: str, root: Path) -> int:
    """Return how many parts of an image's path lead to the data folder, on this machine or where the list was made."""
    parts = name.split("/")
    ends = ("/".join(parts[cut:]) for cut in range(len(parts)))
    return next((cut for cut, end in enumerate(ends) if not leaves_root(end) and isfile(root / end)), 0)


def label_file(folder: Path, name: str) -> Path:
    """Return an image's label file: `labels` for the last `images` in its path, else beside the image."""
    image = folder / name
    parts = list(image.parts)
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[:-1][::-1].index("images")
        parts[last] = "labels"
    return Path(*parts).with_suffix(".txt")


def _add(split: str, folder: Path, name: str, labels: Path, labelled: bool, pose: bool, result: Annotations) -> int:
    """Add one image with its boxes, and return the highest class id seen; in a `pose` set key points follow the box."""
    try:
        width, height = image_size(folder / name)
        text = read_text(labels) if labelled else ""
    except FindingError as error:
        result.problems.append(error.finding)
        return -1
    number = result.add_image(name, folder, None, (width, height), split, labels)
    highest = -1
    for line, words in enumerate((line.split() for line in text.splitlines()), start=1):
        if not words:
            continue
        values = _numbers(words[:5] if pose else words)
        if values is None or not (values[0] >= 0 and values[0] == values[0] // 1):
            shown = " ".join(words)[:80]
            message = f"expected 'class cx cy w h' (or a polygon) in numbers, found {shown!r}"
            result.problem("annotation", message, labels, line)
            continue
        result.add_box(number, _to_xyxy(values[1:], width, height), int(values[0]), line)
        highest = max(highest, int(values[0]))
    return highest


def _numbers(words: list[str]) -> list[float] | None:
    """Return a line's class and coordinates, or None when they are neither a box (4) nor a polygon (6, 8, …)."""
    count = len(words) - 1
    if count != 4 and not (count >= 6 and count % 2 == 0):
        return None
    try:
        values = [float(word) for word in words]
    except ValueError:
        return None
    return values if math.isfinite(values[0]) else None


def _to_xyxy(values: list[float], width: int, height: int) -> tuple[float, float, float, float]:
    """Return pixels xyxy from fractions cx, cy, w, h, or from a polygon's x, y pairs."""
    if len(values) == 4:
        cx, cy, w, h = values
        x1, y1, x2, y2 = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
    else:
        x1, y1, x2, y2 = min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
    return x1 * width, y1 * height, x2 * width, y2 * height


def _orphans(place: Path, result: Annotations) -> None:
    """Keep a problem for each label file without an image."""
    if not place.is_dir():
        return
    images = list_images(place)
    expected = {label_file(place, name) for name in images}
    folder = label_file(place, "x.jpg").parent
    for file in (folder / name for name in list_files(folder, {".txt"})) if folder != place else []:
        if file not in expected and file.name != "classes.txt":
            result.problem("label-orphan", "no image belongs to this label file", file)


def _class_names(request: Request, needed: int, result: Annotations) -> tuple[str, ...]:
    """Return the class names: as asked, from the YAML, a list of names, a YAML one folder below, or made up."""
    if request.classes is not None:
        return request.classes
    root = request.root
    file = request.path if request.path.is_file() else _yaml_file(root)
    if file is not None:
        return _yaml_names(file, result)
    for name in _NAME_FILES:
        if (root / name).is_file():
            return tuple(read_lines(root / name))
    if (file := _yaml_below(root)) is not None:
        result.notes.append(f"class names from {file.relative_to(root)}")
        return _yaml_names(file, result)
    result.notes.append(f"no class names found (data.yaml, classes.txt): named class_0 to class_{needed - 1}")
    return tuple(f"class_{i}" for i in range(needed))


def _yaml_names(file: Path, result: Annotations) -> tuple[str, ...]:
    """Return the `names` of a data YAML, a list or a mapping from id, which count the classes whatever `nc` says."""
    data = _read_yaml(file)
    names, count = data.get("names"), data.get("nc")
    if isinstance(names, dict) and set(names) == {str(i) for i in range(len(names))}:
        names = [names[str(i)] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise broken(file, f"names must be a list, or a mapping from 0…n−1, of class names, found {names!r:.80}")
    if count not in (None, str(len(names))):
        result.problem("class-count", f"nc is {count!s:.20}, but names has {counted(len(names), 'class')}", file)
    return tuple(class_name(str(name)) for name in names)
