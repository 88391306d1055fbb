"""Images of a data set as they are embedded in a page."""

import base64
import io
from typing import Final

from PIL import Image

from boxwright.data.dataset import read_record
from boxwright.data.records import ImageRecord
from boxwright.errors import DataError

__all__ = ["data_uri", "picture"]

_LONGEST: Final = 640  # pixels of an embedded picture


def picture(record: ImageRecord, longest: int = _LONGEST) -> dict[str, str]:
    """Return the image as a data URI under `picture`, or under `error` why there is none."""
    try:
        pixels = read_record(record)
    except DataError as error:
        return {"error": str(error)}
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    scale = min(1.0, longest / max(image.size))
    return {"picture": data_uri(image, scale)}


def data_uri(image: Image.Image, scale: float = 1.0) -> str:
    """Return a picture, its sides multiplied by `scale`, as a JPEG inside a URI."""
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    stream = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(stream, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
