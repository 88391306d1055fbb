"""What `data check` sees in the image files: unreadable, of another size, turned by EXIF, 16-bit, or there twice."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from boxwright.data.annotations import Annotations, ImageEntry
from boxwright.data.files import ImageHeader, read_header
from boxwright.data.findings import Finding, FindingError
from boxwright.data.images import read_image
from boxwright.errors import DataError

_CONVERTED = {"1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr"}


class Look(NamedTuple):
    """One image file: header and content hash, and what is wrong where it cannot be decoded."""

    header: ImageHeader | None
    digest: bytes | None
    problem: Finding | None


Watch = Callable[[Iterable[Look], int], Iterable[Look]]
"""What passes on the looks at that many images, and may show how far they are."""


def check_images(annotations: Annotations, watch: Watch) -> list[Finding]:
    """Decode every image once, and fill in the sizes that the annotations do not give."""
    paths = annotations.paths()
    unique = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        looks = dict(zip(unique, watch(pool.map(look, unique), len(unique)), strict=True))
    findings = [one.problem for one in looks.values() if one.problem is not None]
    for number, (entry, path) in enumerate(zip(annotations.images, paths, strict=True)):
        header = looks[path].header
        if header is None:
            continue
        findings += _header_findings(entry, path, header)
        if not entry.width or not entry.height:
            width, height = header.upright
            annotations.images[number] = entry._replace(width=width, height=height)
    findings = [*dict.fromkeys(findings)]  # an image of two splits is of the same mode in both
    return findings + list(_repeats(annotations.images, paths, looks))


def look(path: Path) -> Look:
    """Read and decode one image as training would."""
    try:
        header = read_header(path)
        read_image(path, enough=1)  # all of a JPEG is read, but its pixels are made at an eighth of the size
        return Look(header, hashlib.blake2b(path.read_bytes(), digest_size=16).digest(), None)
    except FindingError as error:
        return Look(None, None, error.finding)
    except (DataError, OSError) as error:
        return Look(None, None, Finding("image-unreadable", str(error).removeprefix(f"{path}: "), path))


def _header_findings(entry: ImageEntry, path: Path, header: ImageHeader) -> Iterator[Finding]:
    """Compare one image's header with its annotation."""
    stored, annotated = (header.width, header.height), (entry.width, entry.height)
    if header.orientation > 1:
        frame = "stored" if annotated == stored != header.upright else "shown"
        message = (
            f"EXIF orientation {header.orientation}: viewers turn it; its boxes are taken for drawn on it as {frame}"
        )
        yield Finding("image-rotated", message, path)
    if 0 not in annotated and annotated not in (stored, header.upright):
        message = f"is {header.width}x{header.height}, annotated as {entry.width}x{entry.height} in {entry.source}"
        yield Finding("image-size", message, path)
    if header.mode.startswith("I"):
        yield Finding("image-mode", f"16-bit pixels (mode {header.mode}): the upper 8 bits are used", path)
    elif header.mode in _CONVERTED:
        yield Finding("image-channels", f"mode {header.mode} instead of RGB", path)


def _repeats(entries: list[ImageEntry], paths: list[Path], looks: dict[Path, Look]) -> Iterator[Finding]:
    """Find images of the same content, within a split and across splits."""
    first: dict[bytes, int] = {}
    for number, (entry, path) in enumerate(zip(entries, paths, strict=True)):
        digest = looks[path].digest
        if digest is None:
            continue
        other = first.setdefault(digest, number)
        if other != number:
            kind = "image-duplicate" if entries[other].split == entry.split else "split-leak"
            message = f"in {entry.split}: the same image as {paths[other]} in {entries[other].split}"
            yield Finding(kind, message, path)
