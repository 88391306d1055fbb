"""Reading files so that errors name file and line (text, JSON, image headers), image names, and new folders."""

import codecs
import gc
import json
import os
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

from boxwright.data.findings import Finding, FindingError
from boxwright.errors import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
SPLITS = ("train", "val", "test")
SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val"}
SPLIT_NAMES |= {"test": "test", "testing": "test", "trainval": "train"}
_NO_LETTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")  # controls, line breaks, halves of pairs


def split_name(name: str) -> str:
    """Return the split that a file or folder name speaks of: `instances_val2017` is `val`; other names stay.

    Example:
        >>> split_name("instances_val2017"), split_name("valid"), split_name("cells")
        ('val', 'val', 'cells')
    """
    words = re.split(r"[^a-z]+", name.lower())
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), name.removeprefix("instances_"))


def name_splits(pairs: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Return split → file or folder of (name, file or folder); names that speak of one split keep apart as they are.

    Example:
        >>> [*name_splits((name, Path(name)) for name in ("train2014", "train2017", "val2017"))]
        ['train2014', 'train2017', 'val']
    """
    places = dict(pairs)
    counts = Counter(map(split_name, places))
    return {(split if counts[split := split_name(name)] == 1 else name): place for name, place in places.items()}


def leaves_root(name: str) -> bool:
    """Tell whether an image name from an annotation file could point outside the data folder (or is not a name)."""
    windows = PureWindowsPath(name)
    return not name.strip() or "\0" in name or bool(windows.anchor) or ".." in windows.parts


def name_below(name: str, folder: Path) -> str:
    """Return an image name from an annotation file, relative to the data folder where it is an absolute path in it."""
    return os.path.relpath(name, folder) if os.path.isabs(name) and Path(name).is_relative_to(folder) else name


def posix_name(name: str) -> str:
    """Return an image name from an annotation file with `/` between folders, as it may have been written on Windows."""
    return name.replace("\\", "/")


def class_name(text: str) -> str:
    """Return a class name as one line of text, as tables, terminals and class lists hold it.

    Example:
        >>> class_name(" traffic\\n\\tlight ")
        'traffic light'
    """
    return _NO_LETTERS.sub(" ", text).strip()


def broken(path: Path, message: str, line: int | None = None) -> FindingError:
    """Return the error for an annotation file that cannot be used as a whole."""
    return FindingError(Finding("annotation-file", message, path, line))


def read_text(path: Path) -> str:
    """Return a UTF-8 text file, or raise `FindingError` with the file and line of the first broken byte."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise broken(path, f"cannot be read ({error.strerror})") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        raise broken(path, "not UTF-8 text" + " but UTF-16: save it as UTF-8" * utf16, line) from error


def read_head(path: Path) -> bytes:
    """Return the first bytes of a file, by which its format is recognised; none where it cannot be read."""
    try:
        with path.open("rb") as stream:
            return stream.read(4096)
    except OSError:
        return b""


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not blank, stripped."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def read_json(path: Path) -> Any:
    """Return the value of a JSON file, or raise `FindingError` with the file and line."""
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise broken(path, f"not valid JSON ({error.msg})", error.lineno) from error
    except (ValueError, RecursionError) as error:
        raise broken(path, f"not usable JSON ({error})") from error


def parse_length(text: str | None) -> int:
    """Return an image's width or height from text, or 0 when it gives none."""
    try:
        value = int(float(text or 0))
    except (ValueError, OverflowError):
        return 0
    return value if 0 < value < 2**31 else 0


def list_images(folder: Path) -> list[str]:
    """Return the images below a folder as sorted posix names relative to it."""
    return list_files(folder, IMAGE_SUFFIXES)


def list_files(folder: Path, suffixes: Collection[str]) -> list[str]:
    """Return the files below a folder of these suffixes (lower case) as sorted posix names relative to it.

    Hidden ones are left out: `._photo.jpg` of macOS is no image, and `.ipynb_checkpoints` of Jupyter holds copies.
    """
    names = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        prefix = Path(parent).relative_to(folder)
        seen = (name for name in files if not name.startswith("."))
        names += [(prefix / name).as_posix() for name in seen if Path(name).suffix.lower() in suffixes]
    return sorted(names)


def image_size(path: Path) -> tuple[int, int]:
    """Return width and height of an image, upright (EXIF), from its header: the frame in which people drew boxes."""
    return read_header(path).upright


class ImageHeader(NamedTuple):
    """What an image file says of itself: the size of its stored pixels, Pillow's mode, and the EXIF orientation."""

    width: int
    height: int
    mode: str
    orientation: int

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height of the picture as viewers show it."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def read_header(path: Path) -> ImageHeader:
    """Return an image's header without decoding the pixels, or raise `FindingError`."""
    from PIL import ExifTags, Image

    try:
        with warnings.catch_warnings():
            # The loader and `data check` judge decompression bombs; a header alone is harmless.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return ImageHeader(*image.size, image.mode, image.getexif().get(ExifTags.Base.Orientation, 1))
    except FileNotFoundError:
        raise FindingError(Finding("image-missing", "the image does not exist", path)) from None
    except Exception as error:  # Pillow's plugins raise SyntaxError, struct.error and more on hostile files
        raise FindingError(Finding("image-unreadable", f"not a readable image ({error})", path)) from error


@contextmanager
def without_collections() -> Iterator[None]:
    """Pause the garbage collector, which takes half the time where millions of objects are made and none is garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a folder to write to that becomes `path` when all went well, and is gone otherwise.

    Raises:
        DataError: `path` exists and is not an empty folder.
    """
    path = path.absolute()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise DataError(f"{path} exists already; name a new folder, or empty it first")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as partial:
        target = Path(partial) / "data"
        target.mkdir()
        yield target
        if path.exists():
            path.rmdir()  # Windows does not replace a folder, not even an empty one
        target.replace(path)
