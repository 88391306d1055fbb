"""COCO JSON: one file per split, in `annotations/`, beside the images, or given itself."""

import mmap
import re
from collections import Counter
from collections.abc import Iterator
from os.path import isfile
from pathlib import Path
from typing import Any, TypeGuard
from urllib.parse import unquote

from boxwright.counts import listed
from boxwright.data.annotations import Annotations, Request
from boxwright.data.files import (
    broken,
    class_name,
    leaves_root,
    name_below,
    name_splits,
    posix_name,
    read_head,
    read_json,
    split_name,
)
from boxwright.errors import DataError

NAME = "coco"
TITLE = "COCO"
VERSION = 4

_FIRST_KEY = re.compile(rb'(\xef\xbb\xbf)?\s*\{\s*"(info|licenses|images|annotations|categories|type)"')
_MAX_ID = 2**63
_MAX_AREA = 1e38  # what records hold, float32, ends at 3.4e38


def sniff(path: Path) -> bool:
    """Tell whether the path is a JSON file, or a folder that holds COCO files."""
    return path.suffix.lower() == ".json" if path.is_file() else bool(_find(path))


def sources(request: Request) -> Iterator[Path]:
    """Return the annotation files."""
    yield from _splits(request).values()


def read(request: Request) -> Annotations:
    """Return images and annotations of every split; categories are the union over the files."""
    result = Annotations(places="id")
    categories: dict[int, str] = {}
    parents: dict[int, Any] = {}
    for split, file in _splits(request).items():
        data = read_json(file)
        if not isinstance(data, dict) or not isinstance(data.get("images"), list):
            raise broken(file, "not a COCO file: expected an object with 'images', 'annotations' and 'categories'")
        _read_categories(data, file, categories, parents, result)
        base = request.images or _data_folder(file)
        listed = [image.get("file_name") for image in data["images"] if isinstance(image, dict)]
        names = [name_below(name, base) for name in listed if isinstance(name, str)]
        numbers = _read_images(data["images"], split, file, base, _image_folder(request, file, split, names), result)
        _read_boxes(data.get("annotations", []), numbers, file, result)
    _set_classes(categories, parents, request, result)
    return result


def _splits(request: Request) -> dict[str, Path]:
    """Return split → annotation file."""
    path = request.path
    found = {split_name(path.stem): path} if path.is_file() else _find(path)
    chosen = request.choose(found)
    if not chosen:
        raise DataError(
            f"{path}: no COCO .json file found here, in annotations/, or in train/, valid/, test/; where one has "
            "another name or starts otherwise, name the file itself"
        )
    return chosen


def _find(root: Path) -> dict[str, Path]:
    """Find the annotation files of a folder: `annotations/`, the folder itself, or one folder per split.

    Files of COCO's own names are taken whatever they hold, so that the error can say what is wrong with one.
    """
    for folder in (root / "annotations", root):
        instances = sorted(folder.glob("instances*.json"))
        files = [file for file in sorted(folder.glob("*.json")) if _is_coco(file)]
        if instances or files:
            return name_splits((file.stem, file) for file in instances or files)
    files = [file for file in sorted(root.glob("*/*.json")) if _is_coco(file)]
    beside = Counter(file.parent.name for file in files)
    names = (f"{file.parent.name}-{file.stem}" if beside[file.parent.name] > 1 else file.parent.name for file in files)
    return name_splits(zip(names, files, strict=True))


def _is_coco(file: Path) -> bool:
    """Tell whether a file begins as a COCO file does and has images, which Label Studio's notes beside YOLO lack."""
    if not _FIRST_KEY.match(read_head(file)):
        return False
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(b'"images"') >= 0


def _data_folder(file: Path) -> Path:
    return file.parent.parent if file.parent.name == "annotations" else file.parent


def _image_folder(request: Request, file: Path, split: str, names: list[str]) -> Path:
    """Return the folder that holds the listed images: the first of the usual places that has one of the first few."""
    if request.images is not None:
        return request.images
    base = _data_folder(file)
    parts = (split, f"{split}2017", f"{split}2014", "valid")
    inside = [base / "images", *(base / "images" / part for part in parts)]
    places = [*inside, file.parent, base, *(base / part for part in parts), base.parent / "images"]
    samples = [posix_name(name) for name in names if not leaves_root(name)][:20]
    return next((place for place in places if any(isfile(place / name) for name in samples)), places[0])


def _read_categories(
    data: dict[str, Any], file: Path, categories: dict[int, str], parents: dict[int, Any], result: Annotations
) -> None:
    """Add the file's categories, with their parents, to those known, which they must not contradict."""
    listed = data.get("categories", [])
    for category in listed if isinstance(listed, list) else [listed]:
        identity = _identity(category.get("id")) if isinstance(category, dict) else None
        name = category.get("name") if isinstance(category, dict) else None
        if identity is None or not isinstance(name, str) or not class_name(name):
            result.problem("annotation", f"a category needs an integer id and a name, found {category!r:.80}", file)
        elif categories.setdefault(identity, name := class_name(name)) != name:
            message = f"category {identity} is {name!r} here and {categories[identity]!r} elsewhere"
            result.problem("annotation", message, file, id=identity)
        else:
            parents[identity] = category.get("supercategory")


def _read_images(
    images: list[Any], split: str, file: Path, base: Path, folder: Path, result: Annotations
) -> dict[int, int]:
    """Add the images and return image id → number."""
    numbers: dict[int, int] = {}
    for image in images:
        identity = _identity(image.get("id")) if isinstance(image, dict) else None
        name = image.get("file_name") if isinstance(image, dict) else None
        if identity is None or not isinstance(name, str):
            result.problem("annotation", f"an image needs an integer id and a file_name, found {image!r:.80}", file)
        elif leaves_root(name := name_below(name, base)):
            result.problem("file-name", f"file_name {name!r} leaves the data folder", file, id=identity)
        elif identity in numbers:
            result.problem("annotation", f"two images have id {identity}, the second is {name!r}", file, id=identity)
        else:
            size = (_length(image.get("width")), _length(image.get("height")))
            numbers[identity] = result.add_image(_local_name(name, folder), folder, identity, size, split, file)
    return numbers


def _local_name(name: str, folder: Path) -> str:
    """Return an image's name as the folder has it: some tools write it as in an address, `a%20b.jpg` for `a b.jpg`."""
    name, plain = posix_name(name), posix_name(unquote(name))
    encoded = plain != name and not leaves_root(plain) and not isfile(folder / name) and isfile(folder / plain)
    return plain if encoded else name


def _read_boxes(annotations: Any, numbers: dict[int, int], file: Path, result: Annotations) -> None:
    """Add the annotations' boxes: xywh to xyxy, `iscrowd` to crowd."""
    if not isinstance(annotations, list):
        raise broken(file, f"'annotations' must be a list, found {type(annotations).__name__}")
    seen: set[int] = set()
    for index, annotation in enumerate(annotations):
        if not isinstance(annotation, dict):
            result.problem("annotation", f"annotation number {index} is not an object but {annotation!r:.80}", file)
            continue
        given = annotation.get("id", index)
        if (identity := _identity(given)) is None:
            result.problem("annotation", f"annotation number {index}: id must be an integer, not {given!r:.60}", file)
            continue
        box, category = annotation.get("bbox"), annotation.get("category_id")
        area, crowd = annotation.get("area"), annotation.get("iscrowd") or 0
        number = None if (owner := _identity(image := annotation.get("image_id"))) is None else numbers.get(owner)
        if identity in seen:
            result.problem("annotation", f"two annotations have id {identity}", file, id=identity)
        elif number is None:
            result.problem("unknown-image", f"image_id {image!r:.80} is not in the image list", file, id=identity)
        elif not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
            only = [key for key in ("segmentation", "keypoints") if annotation.get(key)] if not box else []
            found = f"none beside its {only[0]}" if only else f"{box!r:.80}"
            result.problem("annotation", f"bbox must be four numbers [x, y, w, h], found {found}", file, id=identity)
        elif area is not None and not (_is_number(area) and abs(area) < _MAX_AREA):
            result.problem("annotation", f"area must be a finite number, found {area!r:.80}", file, id=identity)
        elif crowd not in (0, 1):
            result.problem("annotation", f"iscrowd must be 0 or 1, found {crowd!r:.80}", file, id=identity)
        else:
            x, y, w, h = box
            area = area if area is None or area >= 0 else None
            known = _identity(category)
            key = known if known is not None else category if isinstance(category, str) else repr(category)
            result.add_box(number, (x, y, x + w, y + h), key, identity, bool(crowd), area)
        seen.add(identity)


def _set_classes(categories: dict[int, str], parents: dict[int, Any], request: Request, result: Annotations) -> None:
    """Give labels by sorted category id, or in the order of the classes asked for."""
    ids = sorted(categories)
    # Roboflow puts a category that only names the group of the others before them.
    if request.classes is None and ids and parents[ids[0]] == "none" and not result.uses(ids[0]):
        name = categories[ids[0]]
        if len(ids) > 1 and all(parents[i] == name for i in ids[1:]):
            result.notes.append(f"category {name!r} left out: it has no object, and is the supercategory of the others")
            ids = ids[1:]
    if request.classes is not None:
        by_name = {name: identity for identity, name in categories.items()}
        missing = [name for name in request.classes if name not in by_name]
        if missing:
            raise DataError(f"class {missing[0]!r} is not a category of {request.path}; it has: {listed([*by_name])}")
        ids = [by_name[name] for name in request.classes]
    counts = Counter(categories[i] for i in ids)
    for name in (name for name, count in counts.items() if count > 1):
        result.problem("category-name", f"{counts[name]} categories are named {name!r}", request.path)
    names = [categories[i] if counts[categories[i]] == 1 else f"{categories[i]} (id {i})" for i in ids]
    result.set_classes(ids, names, ids)


def _is_id(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and -_MAX_ID <= value < _MAX_ID


def _identity(value: Any) -> int | None:
    """Return an id, of which the column of a table may have made a float, 3.0 for 3; None where it is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if _is_id(value) else None


def _length(value: Any) -> int:
    """Return a width or height, or 0 (read it from the image) when it is not a sensible number."""
    return int(value) if _is_number(value) and 0 < value < 2**31 else 0


def _is_number(value: Any) -> TypeGuard[float]:
    """Tell whether a JSON value is a number that float64 can hold (NaN and infinity are judged later)."""
    return isinstance(value, float) or _is_id(value)
