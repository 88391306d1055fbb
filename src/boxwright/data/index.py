"""Open a data set of any known format: parsed once, judged by the rules, cached, and handed out lazily by split."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from os.path import isfile
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from boxwright.counts import counted
from boxwright.data import cache
from boxwright.data.annotations import Request
from boxwright.data.cache import Store
from boxwright.data.files import broken, without_collections
from boxwright.data.findings import Finding, FindingError
from boxwright.data.readers import READERS, Reader, describe, find_reader, read_annotations
from boxwright.data.records import ImageRecord
from boxwright.data.rules import judge
from boxwright.data.splits import by_split, make_validation, shared_images
from boxwright.data.stats import SplitColumns, Statistics, statistics
from boxwright.errors import DataError


def open_dataset(
    path: str | Path,
    *,
    format: str | None = None,
    classes: Sequence[str] | None = None,
    splits: Mapping[str, str] | None = None,
    images: str | Path | None = None,
    one_based: bool | None = None,
    cache: bool = True,
    val_fraction: float = 0.2,
    seed: int = 0,
) -> "DataIndex":
    """Open a data set by its path: COCO JSON, Pascal VOC, YOLO or CSV, found automatically.

    Args:
        path: an annotation file, or the folder of a data set.
        format: `coco`, `voc`, `yolo` or `csv`, where the path holds several.
        classes: class names in label order; an annotation of another class is an error.
        splits: split name → a split found, or an annotation file or folder (relative to `path` or to here).
        images: the folder of the images, where it is not one of the usual places.
        one_based: whether Pascal VOC counts pixels from 1 (None: detected).
        cache: keep the parsed annotations in the user's cache folder, and use what is there.
        val_fraction: the share of `train` that becomes `val` where there is none, chosen by file name and `seed`.

    Raises:
        DataError: naming file and line or id of the first annotation that breaks the rules.
    """
    request = Request.make(path, classes, splits, images, one_based)
    if not 0 < val_fraction < 1:
        raise DataError(f"val_fraction must lie between 0 and 1, found {val_fraction}")
    reader = find_reader(request.path, format)
    return _open(reader, request, cache, val_fraction, seed)


def dataset_arguments(
    path: str | Path | None,
    format: str | None,
    classes: Sequence[str] | None,
    splits: Mapping[str, str] | None,
    images: str | Path | None,
    one_based: bool | None,
) -> dict[str, Any]:
    """Return arguments of `open_dataset` as JSON can hold them, with absolute paths, so that a run can keep them."""
    return {
        "path": None if path is None else str(Path(path).absolute()),
        "format": format,
        "classes": None if classes is None else list(classes),
        "splits": None if splits is None else dict(splits),
        "images": None if images is None else str(Path(images).absolute()),
        "one_based": one_based,
    }


class DataIndex:
    """A data set's classes and splits; its records are read from a memory-mapped file and cost no memory.

    Picklable and cheap in loader workers: each process opens the file by its path when it first reads a record.
    """

    def __init__(self, store: Store, meta: dict[str, Any]) -> None:
        self._store = store
        self.format: str = meta["format"]
        self.class_names: tuple[str, ...] = tuple(meta["class_names"])
        self.category_ids: tuple[int, ...] = tuple(meta["category_ids"])
        self.notes: tuple[str, ...] = tuple(meta["notes"])
        self._folders = tuple(Path(folder) for folder in meta["folders"])
        self._rows: dict[str, tuple[int, int]] = {name: (start, stop) for name, start, stop in meta["splits"]}

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits, `train` first."""
        return tuple(self._rows)

    def split(self, name: str) -> "Records":
        """Return the records of a split as a lazy sequence; raises `DataError` when there is no such split."""
        if name not in self._rows:
            found = ", ".join(self.splits)
            raise DataError(
                f"no split {name!r} in this data set, which has: {found}; name one with --split {name}=PATH"
            )
        return Records(self._store, self._folders, *self._rows[name])

    def class_counts(self, split: str) -> Tensor:
        """Return the number of objects of each class, crowd regions left out, (C,) int64."""
        _, labels, crowd, _ = self.split(split).columns()
        return torch.bincount(torch.from_numpy(labels[crowd == 0].astype("int64")), minlength=len(self.class_names))

    def fingerprint(self, *splits: str) -> str:
        """Return a digest of classes, image names, annotations and image file sizes, wherever the data set lies."""
        digest = hashlib.sha256(json.dumps([self.class_names, self.category_ids]).encode())
        for name in splits:
            records = self.split(name)
            for position, record in enumerate(records):
                size = record.path.stat().st_size if isfile(record.path) else -1
                facts = (name, records.name(position), record.image_id, record.width, record.height, size)
                digest.update(repr(facts).encode())
                for values in (record.boxes, record.labels, record.crowd, record.area):
                    digest.update(values.numpy().tobytes())
        return digest.hexdigest()[:24]

    def statistics(self) -> Statistics:
        """Return the counts of images, objects, classes and sizes."""
        return statistics(self.class_names, {name: self.split(name).columns() for name in self.splits})

    def __len__(self) -> int:
        return sum(stop - start for start, stop in self._rows.values())

    def describe(self) -> str:
        """Return one line: `found: Pascal VOC, 364 images, 3 classes, splits train/val/test`."""
        return describe(READERS[self.format], len(self), self.class_names, self.splits)

    def __repr__(self) -> str:
        return f"DataIndex({self.describe()})"


class Records(Sequence[ImageRecord]):
    """The records of one split, built when asked for."""

    def __init__(self, store: Store, folders: tuple[Path, ...], start: int, stop: int) -> None:
        self._store, self._folders, self._start, self._stop = store, folders, start, stop

    def __len__(self) -> int:
        return self._stop - self._start

    def columns(self) -> SplitColumns:
        """Return all boxes of the split as arrays, without copies."""
        views = self._store.views
        offsets = views.offsets[self._start : self._stop + 1]
        rows = slice(offsets[0], offsets[-1])
        return SplitColumns(np.diff(offsets), views.labels[rows], views.crowd[rows], views.area[rows])

    def name(self, index: int) -> str:
        """Return an image's name relative to its image folder, in posix form."""
        return str(self._store.views.names[self._start + range(len(self))[index]])

    @overload
    def __getitem__(self, index: int) -> ImageRecord: ...
    @overload
    def __getitem__(self, index: slice) -> list[ImageRecord]: ...
    def __getitem__(self, index: int | slice) -> ImageRecord | list[ImageRecord]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        row = self._start + range(len(self))[index]
        views = self._store.views
        first, last = views.offsets[row], views.offsets[row + 1]
        return ImageRecord(
            path=self._folders[views.folder[row]] / str(views.names[row]),
            image_id=int(views.image_id[row]),
            width=int(views.width[row]),
            height=int(views.height[row]),
            boxes=torch.from_numpy(views.boxes[first:last].copy()),
            labels=torch.from_numpy(views.labels[first:last].astype("int64")),
            crowd=torch.from_numpy(views.crowd[first:last].astype("bool")),
            area=torch.from_numpy(views.area[first:last].copy()),
        )


def _open(reader: Reader, request: Request, use_cache: bool, val_fraction: float, seed: int) -> DataIndex:
    """Return the index from the cache where that is whole and fresh, else parse, judge and store it."""
    identity = f"{reader.NAME} {reader.VERSION} {val_fraction} {seed} {request}"
    key = cache.fingerprint(identity, reader.sources(request))
    file = cache.cache_file(identity)
    if use_cache and (meta := cache.load(file, key)) is not None:
        store = Store(file, meta["checksum"])
        index = DataIndex(store, meta)
        # absent images may have come since, to another of the usual folders
        if not _replaced(store, meta) and not _absent(index):
            return index
    with without_collections():
        batch = _build(reader, request, key, val_fraction, seed)
    meta = cache.read_meta(batch)
    source: Path | bytes = file
    try:
        if use_cache:
            cache.save(batch, file)
        else:
            source = cache.to_bytes(batch)
    except OSError as error:
        source = cache.to_bytes(batch)
        meta["notes"].append(f"no index cache: {file.parent} cannot be written ({error.strerror})")
    meta["notes"] += _absent(DataIndex(Store(source, meta["checksum"]), meta))
    return DataIndex(Store(source, meta["checksum"]), meta)


def _replaced(store: Store, meta: Mapping[str, Any]) -> bool:
    """Tell whether an image is another file than when it was measured, where annotations do not give its size."""
    if meta["measured"] is None:
        return False
    views = store.views
    return bool(meta["measured"] != _state(meta["folders"], views.folder.tolist(), views.names.to_pylist()))


def _state(folders: Sequence[str], places: Iterable[int], names: Iterable[str]) -> str:
    """Return a digest of every image file's size and time, whatever their order."""
    return cache.fingerprint("images", sorted(f"{folders[i]}/{name}" for i, name in zip(places, names, strict=True)))


def _absent(index: DataIndex) -> list[str]:
    """Return a note for each split of which none of the first images exists."""
    notes = []
    for name in index.splits:
        paths = [record.path for record in index.split(name)[:20]]
        if not any(isfile(path) for path in paths):
            notes.append(f"images of {name} not found, such as {paths[0]}; name their folder with --images")
    return notes


def _build(reader: Reader, request: Request, key: str, val_fraction: float, seed: int) -> Any:
    """Parse a data set, apply the rules, and return its Arrow batch, ordered by split."""
    annotations = read_annotations(reader, request)
    folders, entries = [str(folder) for folder in annotations.folders], annotations.images
    measured = None
    if any(entry.width <= 0 or entry.height <= 0 for entry in entries):
        # looked at before they are read, so that one that is replaced meanwhile is read again the next time
        measured = _state(folders, (entry.folder for entry in entries), (entry.name for entry in entries))
        annotations.fill_sizes()
    verdict = judge(annotations)
    findings = annotations.problems + verdict.findings
    _refuse(findings)
    if not annotations.images:
        raise broken(request.path, "no images are listed here")
    made = make_validation(annotations, val_fraction, seed, request.splits or ())
    images, boxes, splits = by_split(annotations.images, verdict.boxes)
    meta = {
        "key": key,
        "measured": measured,
        "format": reader.NAME,
        "class_names": annotations.class_names,
        "category_ids": annotations.category_ids,
        "folders": folders,
        "splits": splits,
        "notes": annotations.notes + made + shared_images(annotations) + _summary(findings),
    }
    return cache.to_batch(images, boxes, meta)


def _refuse(findings: list[Finding]) -> None:
    """Raise `DataError` for the first error among the findings, saying how many more there are."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        more = f" ({counted(len(errors) - 1, 'more error')}; see `boxwright data check`)" if len(errors) > 1 else ""
        raise FindingError(errors[0], more)


def _summary(findings: list[Finding]) -> list[str]:
    """Return one note per kind of finding that changed what is loaded."""
    words = {
        "box-empty": ("box", "without area dropped"),
        "box-clipped": ("box", "over the border clipped"),
        "category-name": ("class name", "used for several categories"),
        "class-count": ("class count", "that the names contradict"),
        "label-orphan": ("label file", "without an image left out"),
    }
    notes = []
    for kind, (noun, what) in words.items():
        found = [finding for finding in findings if finding.kind == kind]
        if found:
            notes.append(f"{counted(len(found), noun)} {what}, the first: {found[0].text}")
    return notes
