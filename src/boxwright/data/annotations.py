"""What the annotation files say, before any rule judges it: the one thing that every reader returns."""

import re
import sys
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from boxwright.counts import counted, listed
from boxwright.data.files import SPLITS, image_size, read_lines
from boxwright.data.findings import Finding, FindingError
from boxwright.errors import DataError


@dataclass(frozen=True)
class Request:
    """What the user asked to open: a path, and what overrides the detection."""

    path: Path
    classes: tuple[str, ...] | None = None
    splits: Mapping[str, str] | None = None
    images: Path | None = None
    one_based: bool | None = None

    @classmethod
    def make(
        cls,
        path: str | Path,
        classes: Sequence[str] | None,
        splits: Mapping[str, str] | None,
        images: str | Path | None,
        one_based: bool | None,
    ) -> "Request":
        """Build a request from what a user passes."""
        return cls(
            Path(path).absolute(),
            tuple(classes) if classes is not None else None,
            dict(splits) if splits is not None else None,
            Path(images).absolute() if images is not None else None,
            one_based,
        )

    @property
    def root(self) -> Path:
        """The data folder: the path itself, or the folder of the file."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def class_file(self) -> Path:
        """A list of class names in label order, one a line, where the data folder has one."""
        return self.root / "classes.txt"

    def choose(self, found: Mapping[str, Path]) -> dict[str, Path]:
        """Return split → annotation file or folder: as asked by a found split's name or by a path, else as found.

        Of the splits found, train, val and test stay beside those asked for, unless their files are given another name;
        so does a lone one that can be the training set.
        """
        if self.splits is None:
            return dict(found)
        chosen: dict[str, Path] = {}
        for split, value in self.splits.items():
            if not re.fullmatch(r"[\w-]+", split):
                raise DataError(f"split {split!r}: a split is named by letters, digits, - and _")
            places = [found[value]] if value in found else [self.root / value, Path(value)]
            place = next((place for place in places if place.exists()), None)
            if place is None:
                names = ", ".join(found) or "none"
                raise DataError(f"split {split}={value}: no such path under {self.root}, and no such split ({names})")
            chosen[split] = place
        given = {place.resolve() for place in chosen.values()}
        left = {name: place for name, place in found.items() if name not in chosen and place.resolve() not in given}
        alone = len(left) == 1 and "train" not in chosen
        return chosen | {name: place for name, place in left.items() if alone or name in SPLITS}


class ImageEntry(NamedTuple):
    """One image as listed: its name below `folder`, its size (0 when unknown) and the file that lists it."""

    name: str
    folder: int
    image_id: int
    width: int
    height: int
    split: str
    source: Path


class BoxTable(NamedTuple):
    """All boxes as arrays of one length: image number, xyxy pixels, label (−1 unknown), crowd, area, line or id."""

    owner: NDArray[np.int64]
    xyxy: NDArray[np.float64]
    label: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    area: NDArray[np.float64]
    place: NDArray[np.int64]

    def select(self, mask: NDArray[np.bool_]) -> "BoxTable":
        """Return the boxes where the mask is true."""
        owner, xyxy, label, crowd, area, place = self
        return BoxTable(owner[mask], xyxy[mask], label[mask], crowd[mask], area[mask], place[mask])


@dataclass
class Annotations:
    """Images, boxes, classes and problems of a data set, as the files have them.

    `places` says whether a box is found again by its line or by its annotation id. A class is known by a source key
    (its id or its name), mapped to its label by `set_classes`.
    """

    places: Literal["line", "id"]
    images: list[ImageEntry] = field(default_factory=list)
    class_names: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()
    problems: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _folders: dict[Path, int] = field(default_factory=dict)
    _boxes: list[tuple[int, tuple[float, ...], bool, float, int]] = field(default_factory=list)
    _keys: list[Hashable] = field(default_factory=list)
    _labels: dict[Hashable, int] = field(default_factory=dict)

    def add_image(
        self, name: str, folder: Path, image_id: int | None, size: tuple[int, int], split: str, source: Path
    ) -> int:
        """Add an image and return its number, to which boxes are added; without an id it is counted from 1."""
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            self.problem(
                "file-name", f"the image name {name!r} is not valid {sys.getfilesystemencoding()}: rename it", source
            )
        number = len(self.images)
        identity = number + 1 if image_id is None else image_id
        place = self._folders.setdefault(folder, len(self._folders))
        self.images.append(ImageEntry(name, place, identity, *size, split, source))
        return number

    def add_box(
        self,
        owner: int,
        xyxy: tuple[float, ...],
        key: Hashable,
        place: int,
        crowd: bool = False,
        area: float | None = None,
    ) -> None:
        """Add a box (xyxy, pixels from 0) of the class known by `key` to image number `owner`."""
        size = (xyxy[2] - xyxy[0]) * (xyxy[3] - xyxy[1]) if area is None else area
        self._boxes.append((owner, xyxy, crowd, size, place))
        self._keys.append(key)

    def uses(self, key: Hashable) -> bool:
        """Tell whether a box is of the class known by `key`."""
        return key in self._keys

    def set_classes(self, keys: Iterable[Hashable], names: Iterable[str], ids: Iterable[int]) -> None:
        """Fix the classes in label order: source keys, names and category ids."""
        self._labels = {key: label for label, key in enumerate(keys)}
        self.class_names, self.category_ids = tuple(names), tuple(ids)
        twice = [name for name, count in Counter(self.class_names).items() if count > 1]
        if twice:
            raise DataError(f"class {twice[0]!r} is listed twice; give every class a name of its own")

    def set_named_classes(self, request: Request) -> None:
        """Fix the classes of a format that knows names only: as asked, from classes.txt, or those found, sorted."""
        listed = request.class_file
        found = sorted({str(key) for key in self._keys})
        names = request.classes or tuple(read_lines(listed) if listed.is_file() else found)
        self.set_classes(names, names, range(1, len(names) + 1))

    @property
    def folders(self) -> list[Path]:
        """The image folders, which `ImageEntry.folder` counts."""
        return list(self._folders)

    def paths(self) -> list[Path]:
        """Return the image files, in the order of `images`."""
        folders = self.folders
        return [folders[entry.folder] / entry.name for entry in self.images]

    def prefer(self, asked: Collection[str]) -> None:
        """Leave the images of the splits asked for out of the others, in which a reader may have found them as well."""
        paths = self.paths()
        named = {path for path, entry in zip(paths, self.images, strict=True) if entry.split in asked}
        kept = [i for i, entry in enumerate(self.images) if entry.split in asked or paths[i] not in named]
        if len(kept) == len(self.images):
            return
        for split, count in Counter(self.images[i].split for i in {*range(len(self.images))}.difference(kept)).items():
            self.notes.append(f"{counted(count, 'image')} of {split} left out, being in {'/'.join(asked)} as well")
        numbers = {old: new for new, old in enumerate(kept)}
        inside = [i for i, box in enumerate(self._boxes) if box[0] in numbers]
        self.images = [self.images[i] for i in kept]
        self._boxes = [(numbers[self._boxes[i][0]], *self._boxes[i][1:]) for i in inside]
        self._keys = [self._keys[i] for i in inside]

    def problem(
        self, kind: str, message: str, file: str | Path, line: int | None = None, id: int | None = None
    ) -> None:
        """Keep a problem: an error when loaded, a finding when checked."""
        self.problems.append(Finding(kind, message, file, line, id))

    def box_table(self) -> BoxTable:
        """Return the boxes as arrays; a class that is not in the class list has label -1."""
        owner, xyxy, crowd, area, place = zip(*self._boxes, strict=True) if self._boxes else ((), (), (), (), ())
        return BoxTable(
            np.array(owner, np.int64),
            np.array(xyxy, np.float64).reshape(-1, 4),
            np.array([self._labels.get(key, -1) for key in self._keys], np.int64),
            np.array(crowd, bool),
            np.array(area, np.float64),
            np.array(place, np.int64),
        )

    def unknown_classes(self, boxes: BoxTable) -> list[Finding]:
        """Return one finding for each box whose class is not in the class list."""
        named = zip(self._labels, self.class_names, strict=True)
        known = listed([name if key == name else f"{key} ({name})" for key, name in named])
        what = "category_id" if self.places == "id" else "class"
        return [
            self.box_finding("unknown-class", boxes, i, f"{what} {self._keys[i]!r} is not one of: {known}")
            for i in np.flatnonzero(boxes.label < 0).tolist()
        ]

    def box_finding(self, kind: str, boxes: BoxTable, i: int, message: str) -> Finding:
        """Return a finding about box `i`, with the place where it stands."""
        source, place = self.images[boxes.owner[i]].source, int(boxes.place[i])
        return Finding(kind, message, source, **{self.places: place})

    def box_text(self, boxes: BoxTable, i: int) -> str:
        """Return box `i` in words: its image with size, its class and its corners."""
        entry, label = self.images[boxes.owner[i]], boxes.label[i]
        name = self.class_names[label] if label >= 0 else "object"
        corners = ", ".join(f"{value:.7g}" for value in boxes.xyxy[i])
        size = f" ({entry.width}x{entry.height})" if entry.width else ""
        return f"{entry.name}{size}: {name} xyxy [{corners}]"

    def fill_sizes(self) -> None:
        """Read the sizes that the annotation files do not give from the image headers."""
        for number, (entry, path) in enumerate(zip(self.images, self.paths(), strict=True)):
            if entry.width > 0 and entry.height > 0:
                continue
            try:
                width, height = image_size(path)
            except FindingError as error:
                self.problems.append(error.finding)
            else:
                self.images[number] = entry._replace(width=width, height=height)
