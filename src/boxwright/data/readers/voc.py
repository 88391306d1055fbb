"""Pascal VOC: one XML file per image in `Annotations/`, splits in `ImageSets/Main/` or one folder each, or none."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from os.path import isfile
from pathlib import Path
from xml.sax import SAXException, SAXParseException
from xml.sax.handler import ContentHandler
from xml.sax.xmlreader import Locator

from defusedxml.common import DefusedXmlException
from defusedxml.sax import parseString

from boxwright.counts import counted
from boxwright.data.annotations import Annotations, Request
from boxwright.data.files import (
    IMAGE_SUFFIXES,
    broken,
    class_name,
    leaves_root,
    list_files,
    name_splits,
    parse_length,
    posix_name,
    read_text,
)
from boxwright.data.findings import FindingError
from boxwright.errors import DataError

NAME = "voc"
TITLE = "Pascal VOC"
VERSION = 4

_ONE_CLASS = re.compile("_(train|val|trainval|test)$")  # aeroplane_train.txt and the like
_SIDES = ("xmin", "ymin", "xmax", "ymax")
ZERO_BASED = "boxwright, corners counted from 0"  # in <source><database> of the files that `data convert` writes


@dataclass
class VocObject:
    """One `<object>`: its line, and its texts by element name."""

    line: int
    texts: dict[str, str] = field(default_factory=dict)

    def box(self) -> tuple[float, float, float, float] | None:
        """Return xmin, ymin, xmax, ymax as written, or None when one is missing or no number."""
        try:
            x1, y1, x2, y2 = (float(self.texts[f"bndbox/{side}"]) for side in _SIDES)
        except (KeyError, ValueError):
            return None
        return x1, y1, x2, y2


@dataclass
class VocFile:
    """One XML file: the texts outside the objects by path (`size/width`), and the objects."""

    texts: dict[str, str] = field(default_factory=dict)
    objects: list[VocObject] = field(default_factory=list)

    def size(self) -> tuple[int, int]:
        """Return width and height, 0 where they are not given."""
        return parse_length(self.texts.get("size/width")), parse_length(self.texts.get("size/height"))


def sniff(path: Path) -> bool:
    """Tell whether the folder holds VOC files, or the path is one."""
    return path.suffix.lower() == ".xml" if path.is_file() else bool(_find(path))


def sources(request: Request) -> Iterator[Path]:
    """Return the class list, the split lists and every XML file of the annotation folders."""
    yield request.class_file
    for place in _splits(request).values():
        if place.is_file():
            yield place
        yield from _xml_files(_annotation_folder(request, place))


def read(request: Request) -> Annotations:
    """Return images and objects of every split; classes are the names found, sorted."""
    result = Annotations(places="line")
    parsed: list[tuple[str, Path, VocFile]] = []
    for split, place in _splits(request).items():
        for file in _split_files(request, place, result):
            try:
                parsed.append((split, file, parse(file)))
            except FindingError as error:
                result.problems.append(error.finding)
    shift, reason = _first_pixel(request, [voc for _, _, voc in parsed])
    result.notes.append(f"coordinates counted from {shift} ({reason})")
    for split, file, voc in parsed:
        _add(split, file, voc, shift, request, result)
    _note_unlisted(request, {file for _, file, _ in parsed}, result)
    result.set_named_classes(request)
    return result


def parse(file: Path) -> VocFile:
    """Return one XML file's texts and objects with their lines; `FindingError` names the line of what is broken."""
    handler = _Handler()
    try:
        parseString(read_text(file).encode(), handler)
    except SAXParseException as error:
        line, what = error.getLineNumber(), error.getMessage()
        raise broken(file, f"not valid XML ({what})", line) from error
    except (SAXException, DefusedXmlException, ValueError) as error:
        raise broken(file, f"XML that is not accepted ({error})") from error
    return handler.file


class _Handler(ContentHandler):
    """Collects texts by path; a SAX handler, because it knows the line of each object."""

    def __init__(self) -> None:
        super().__init__()
        self.file = VocFile()
        self.path: list[str] = []
        self.locator: Locator | None = None
        self.text = ""

    def setDocumentLocator(self, locator: Locator) -> None:
        self.locator = locator

    def startElement(self, name: str, attrs: object) -> None:
        if not self.path and name != "annotation":
            raise SAXException(f"it holds <{name}>, not <annotation>")
        self.path.append(name)
        self.text = ""
        if self.path[1:] == ["object"]:
            self.file.objects.append(VocObject(self.locator.getLineNumber() or 0 if self.locator else 0))

    def characters(self, content: str) -> None:
        self.text += content

    def endElement(self, name: str) -> None:
        inside = "object" in self.path[1:2]
        texts = self.file.objects[-1].texts if inside else self.file.texts
        texts.setdefault("/".join(self.path[2 if inside else 1 :]), self.text.strip())
        self.path.pop()
        self.text = ""


def _splits(request: Request) -> dict[str, Path]:
    """Return split → list file of `ImageSets/Main`, or folder of XML files."""
    path = request.path
    chosen = request.choose({"train": path} if path.is_file() else _find(path))
    if not chosen:
        raise DataError(f"{path}: no Annotations/*.xml found here")
    return chosen


def _find(root: Path) -> dict[str, Path]:
    """Find the splits of a folder."""
    if not _has_xml(root / "Annotations"):
        folders = (folder for folder in _folders(root) if _has_xml(folder))
        return {"train": root} if _has_xml(root) else name_splits((folder.name, folder) for folder in folders)
    files = sorted((root / "ImageSets" / "Main").glob("*.txt"))
    found = {file.stem: file for file in files if not _ONE_CLASS.search(file.stem)}
    trainval = found.pop("trainval", None)
    if trainval is not None and "train" not in found:
        found = {"train": trainval} | found
    return found or {"train": root / "Annotations"}


def _has_xml(folder: Path) -> bool:
    return any(folder.glob("[!.]*.xml"))


def _xml_files(folder: Path) -> list[Path]:
    return [folder / name for name in list_files(folder, {".xml"})]


def _folders(root: Path) -> list[Path]:
    return sorted(child for child in root.iterdir() if child.is_dir()) if root.is_dir() else []


def _annotation_folder(request: Request, place: Path) -> Path:
    """Return the folder of the XML files of a split given by a list file or by a folder."""
    return place if place.is_dir() else request.root / "Annotations" if place.suffix != ".xml" else place.parent


def _split_files(request: Request, place: Path, result: Annotations) -> Iterator[Path]:
    """Return the XML files of a split; ids without a file are problems."""
    folder = _annotation_folder(request, place)
    if place.is_dir():
        yield from _xml_files(folder)
    elif place.suffix == ".xml":
        yield place
    else:
        for number, line in enumerate(read_text(place).splitlines(), start=1):
            entry = line.strip()
            # Lists of one class have a second column (1, -1, 0) after the id.
            names = [entry, *entry.split()[:1]]
            if leaves_root(entry):
                if entry:
                    result.problem("file-name", f"image id {entry!r} leaves the data folder", place, line=number)
            elif (file := next((f for n in names if isfile(f := folder / f"{n}.xml")), None)) is not None:
                yield file
            else:
                result.problem("annotation", f"no file {folder.name}/{entry}.xml for this id", place, line=number)


def _first_pixel(request: Request, files: list[VocFile]) -> tuple[int, str]:
    """Return the number of the first pixel (0 or 1) and how it was found out."""
    if request.one_based is not None:
        return int(request.one_based), "as given"
    sources = {file.texts.get("source/database", "") + file.texts.get("source/annotation", "") for file in files}
    if any(ZERO_BASED in source for source in sources):
        return 0, "written by boxwright"
    boxed = [(box, file.size()) for file in files for item in file.objects if (box := item.box()) is not None]
    starts = {start for box, _ in boxed for start in box[:2]}
    if any(start < 1 for start in starts):
        return 0, "some boxes start below 1"
    if any("voc" in source.lower() for source in sources):
        return 1, "the files name the PASCAL VOC database"
    if any("path" in file.texts for file in files):
        return 0, "files of labelImg, which counts from 0"
    touching = any(box[2] == width or box[3] == height for box, (width, height) in boxed)
    if 1 in starts and touching:
        return 1, "boxes at the border run from 1 to the image size"
    return 0, "nothing speaks for 1"


def _add(split: str, file: Path, voc: VocFile, shift: int, request: Request, result: Annotations) -> None:
    """Add one file's image and objects."""
    name = voc.texts.get("filename") or f"{file.stem}.jpg"
    if leaves_root(name):
        result.problem("file-name", f"<filename> {name!r} leaves the data folder", file)
        return
    folder, name = _image_file(request, file, posix_name(name))
    number = result.add_image(name, folder, None, voc.size(), split, file)
    for item in voc.objects:
        box, label = item.box(), class_name(item.texts.get("name", ""))
        difficult = item.texts.get("difficult") or "0"
        if box is None or not label:
            found = {side: item.texts.get(f"bndbox/{side}") for side in _SIDES}
            message = f"an <object> needs <name> and four numbers in <bndbox>, found {label or None!r:.80} and {found}"
            result.problem("annotation", message, file, item.line)
            continue
        if difficult not in ("0", "1"):
            result.problem("annotation", f"<difficult> must be 0 or 1, found {difficult!r:.80}", file, item.line)
            continue
        x1, y1, x2, y2 = box
        # Counted from 1 and with the last pixel included, the right and bottom edges are already 0-based ends.
        result.add_box(number, (x1 - shift, y1 - shift, x2, y2), label, item.line, difficult == "1")


def _image_file(request: Request, file: Path, name: str) -> tuple[Path, str]:
    """Return folder and name of a file's image: by its `<filename>`, else by the XML file's own name."""
    root = request.root
    inside = [root / "JPEGImages", root / "images", file.parent, root]
    usual = [*inside, root.parent / "images", root.parent / "JPEGImages"]
    places = [request.images] if request.images is not None else usual
    names = [name, *(f"{file.stem}{suffix}" for suffix in sorted(IMAGE_SUFFIXES))]
    found = ((folder, name) for name in names for folder in places if isfile(folder / name))
    return next(found, (places[0], name))


def _note_unlisted(request: Request, used: set[Path], result: Annotations) -> None:
    """Say how many XML files of the annotation folder are in no split."""
    folders = {_annotation_folder(request, place) for place in _splits(request).values()}
    unlisted = [file for folder in folders for file in _xml_files(folder) if file not in used]
    if unlisted and request.path.is_dir():
        result.notes.append(
            f"in no split: {counted(len(unlisted), 'annotation file')}, for example {min(unlisted).name}"
        )
