"""From an image file to uint8 RGB, whatever the file holds; errors name what cannot be used."""

import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from boxwright.errors import DataError

__all__ = ["check_image", "count_frames", "read_image"]

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
_SWAPPING = {_UPRIGHT[code] for code in (5, 6, 7, 8)}
_SIXTEEN_BIT = ("I", "I;16", "I;16L", "I;16B", "I;16N")


def read_image(path: Path | str, size: tuple[int, int] | None = None, enough: int | None = None) -> Tensor:
    """Decode an image file to (3, height, width) uint8 RGB.

    Grey, palette, RGBA (alpha dropped), CMYK and 16-bit images (upper 8 bits kept) are converted. The picture is
    turned upright as its EXIF orientation says, as viewers and annotation tools show it, unless the annotated `size` is
    that of the stored pixels alone: then its boxes were drawn on these.

    Args:
        path: the file; of several frames the first is read.
        size: annotated (width, height) in pixels.
        enough: a JPEG (or a phone's MPO) may be decoded at 1/2, 1/4 or 1/8 as long as its short side keeps this many
            pixels; the caller scales the boxes by the ratio of the sizes. None: full size.

    Raises:
        DataError: missing, not an image, truncated, too large (`PIL.Image.MAX_IMAGE_PIXELS`), a pixel type without a
            fixed range, or neither orientation has the annotated size; names the file.
    """
    with _opened(path) as image:
        turn = _turn(image, size, path)
        if enough is not None:
            short = min(image.size)
            width, height = (-(-side * enough // short) for side in image.size)
            image.draft(None, (width, height))  # nothing happens in formats that cannot
        pixels = _to_rgb(image, path)
        if turn is not None:
            pixels = pixels.transpose(turn)
        return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)


def check_image(path: Path | str, size: tuple[int, int] | None = None) -> None:
    """Raise the `DataError` of `read_image` that the header gives away, or the missing end of a JPEG or PNG."""
    with _opened(path) as image:
        if not _is_whole(path, _ENDS.get(str(image.format), b"")):
            image.load()  # decides: some whole files have other bytes at the end
        if size is None or tuple(size) != image.size:  # else no look at EXIF, for which Pillow decodes a whole PNG
            _turn(image, size, path)


def count_frames(path: Path | str) -> int:
    """Return how many pictures an image file holds, of which `read_image` takes the first.

    A phone's MPO counts as one, since its others are previews.
    """
    with _opened(path) as image:
        return 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))


@contextmanager
def _opened(path: Path | str) -> Iterator[Image.Image]:
    """Open a file; every way in which reading can fail leaves as one DataError that names it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # an error in our words follows
            opened = Image.open(path)
        with opened as image:
            pixels = image.width * image.height
            if Image.MAX_IMAGE_PIXELS is not None and pixels > Image.MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError(f"{pixels} pixels, more than {Image.MAX_IMAGE_PIXELS}")
            yield image
    except FileNotFoundError:
        raise DataError(f"{path}: no such image; check the file names in the annotations") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: {error}; downscale it, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it") from None
    except UnidentifiedImageError:
        raise DataError(f"{path}: not an image in a known format; replace or remove it") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, MemoryError) as error:
        raise DataError(f"{path}: cannot be decoded ({error}); replace or remove it") from error


def _is_whole(path: Path | str, end: bytes) -> bool:
    with open(path, "rb") as file:
        file.seek(-len(end), os.SEEK_END)
        return file.read() == end


def _turn(image: Image.Image, size: tuple[int, int] | None, path: Path | str) -> Image.Transpose | None:
    """Transposition from the stored frame to that of the boxes: the upright one, unless only the stored one fits."""
    upright = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    if size is None or tuple(size) == (image.size[::-1] if upright in _SWAPPING else image.size):
        return upright
    if tuple(size) == image.size:
        return None
    width, height = image.size
    raise DataError(
        f"{path}: is {width}x{height}, annotated as {size[0]}x{size[1]}; correct the annotation or the file"
    )


def _to_rgb(image: Image.Image, path: Path | str) -> Image.Image:
    if image.mode == "F":
        raise DataError(f"{path}: 32-bit float pixels have no fixed range; convert it to 8 or 16 bit")
    if image.mode in _SIXTEEN_BIT:
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise DataError(f"{path}: 32-bit pixels have no fixed range; convert it to 8 or 16 bit")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns when it has to drop transparency from a palette itself
    return image if image.mode == "RGB" else image.convert("RGB")
