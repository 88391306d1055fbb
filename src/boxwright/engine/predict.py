"""From image files to pictures with boxes and one JSON file."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from boxwright.data.files import list_images
from boxwright.data.images import count_frames, read_image
from boxwright.engine.draw import draw_boxes
from boxwright.engine.evaluate import autocast
from boxwright.errors import DataError
from boxwright.files import atomic_path, write_text
from boxwright.models import DenseDetector

__all__ = ["Prediction", "find_images", "predict_files"]

_BATCH = 8
_VIDEOS = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"}


@dataclass(frozen=True)
class Prediction:
    """What was found in one image file.

    Attributes:
        file: the image.
        picture: the image with its boxes; None if it could not be read.
        width: in pixels.
        height: in pixels.
        objects: `class`, `label`, `score` and `box` (x1, y1, x2, y2 in pixels), by falling score.
        error: why it could not be read; None if it could.
        frames: pictures in the file, of which only the first was looked at.
    """

    file: Path
    picture: Path | None = None
    width: int = 0
    height: int = 0
    objects: tuple[dict[str, Any], ...] = ()
    error: str | None = None
    frames: int = 1

    def counts(self) -> str:
        """Return the objects by class, `16 RBC, 1 WBC`."""
        counts = Counter(entry["class"] for entry in self.objects).most_common()
        return ", ".join(f"{count} {name}" for name, count in counts) or "nothing found"


def find_images(sources: Iterable[str | Path]) -> list[tuple[Path, Path]]:
    """List image files, folders (with all folders below) and glob patterns, each file once.

    Returns:
        (file, name): where the image is, and its name relative to the folder it was found in.

    Raises:
        DataError: a source does not exist, matches nothing, holds no image or is a video.
    """
    found: dict[Path, Path] = {}
    for source in sources:
        path = Path(source)
        if "://" in str(source):
            raise DataError(f"{source} is an address: download it first, as only files are read")
        if path.is_dir():
            pairs = [(path / name, Path(name)) for name in list_images(path)]
        elif path.is_file() and path.suffix.lower() in _VIDEOS:
            raise DataError(f"{source} is a video: take its frames first, for example: ffmpeg -i {source} %06d.png")
        elif path.exists():
            pairs = [(path, Path(path.name))]
        elif has_magic(str(source)):
            files = [Path(name) for name in sorted(glob(str(source), recursive=True))]
            pairs = [(file, Path(file.name)) for file in files if file.is_file()]
        else:
            raise DataError(f"there is no image, folder or pattern {source}")
        if not pairs:
            raise DataError(f"{source} {'holds' if path.is_dir() else 'matches'} no image")
        for file, name in pairs:
            found.setdefault(file, name)
    return list(found.items())


def predict_files(
    detector: DenseDetector,
    sources: Iterable[str | Path],
    output: Path,
    *,
    score: float = 0.3,
    precision: str = "32-true",
    report: Callable[[Prediction], None] | None = None,
) -> list[Prediction]:
    """Detect objects in image files; write a picture for each and `predictions.json` for all.

    A file that is not a readable image is noted, and the others are still read.

    Args:
        detector: in evaluation mode.
        sources: image files, folders or glob patterns.
        output: folder of the pictures; those of a folder keep its structure.
        score: objects below are left out.
        precision: 32-true, bf16-mixed or 16-mixed.
        report: called after each image, in order.

    Raises:
        DataError: there is no image at all, or none outside `output`, or that cannot be written.
    """
    inside = output.resolve()
    images = [pair for pair in find_images(sources) if not pair[0].parent.resolve().is_relative_to(inside)]
    if not images:
        raise DataError(f"all images lie in {output}, where pictures would take their place: choose another --output")
    pictures = _picture_names([name for _, name in images])
    predictions: list[Prediction] = []
    try:
        for start in range(0, len(images), _BATCH):
            files = [file for file, _ in images[start : start + _BATCH]]
            targets = [output / name for name in pictures[start : start + _BATCH]]
            for prediction in _predict_batch(detector, files, targets, score, precision):
                predictions.append(prediction)
                if report is not None:
                    report(prediction)
        content = {"classes": list(detector.class_names), "score": score, "images": [_entry(p) for p in predictions]}
        write_text(output / "predictions.json", json.dumps(content, ensure_ascii=False, indent=1))
    except OSError as error:
        raise DataError(f"cannot write to {output}: {error.strerror or error}") from error
    return predictions


def _picture_names(names: Sequence[Path]) -> list[Path]:
    """Name the pictures after the images, `a.png` → `a.jpg`, and keep apart images that differ in suffix or folder."""
    taken: set[Path] = set()
    pictures = []
    for name in names:
        picture, number = name.with_suffix(".jpg"), 1
        while picture in taken:
            number += 1
            picture = name.with_name(f"{name.stem}-{number}.jpg")
        taken.add(picture)
        pictures.append(picture)
    return pictures


@torch.no_grad()
def _predict_batch(
    detector: DenseDetector, files: Sequence[Path], targets: Sequence[Path], score: float, precision: str
) -> list[Prediction]:
    """Predict a few images, in order; those that cannot be read come back with their error."""
    device = next(detector.parameters()).device
    pixels: list[Tensor | DataError] = [_read(file) for file in files]
    readable = [image.to(device) for image in pixels if isinstance(image, Tensor)]
    with autocast(device, precision):
        answers = iter(detector(readable).to("cpu") if readable else ())
    return [
        Prediction(file, error=str(image))
        if isinstance(image, DataError)
        else _draw(file, image, next(answers), target, detector.class_names, score)
        for file, image, target in zip(files, pixels, targets, strict=True)
    ]


def _read(file: Path) -> Tensor | DataError:
    try:
        return read_image(file)
    except DataError as error:
        return error


def _draw(
    file: Path, pixels: Tensor, answer: dict[str, Tensor], target: Path, names: Sequence[str], score: float
) -> Prediction:
    """Write the picture of one image and return what is in it."""
    boxes, scores, labels = (answer[name][answer["scores"] >= score] for name in ("boxes", "scores", "labels"))
    picture = draw_boxes(Image.fromarray(pixels.permute(1, 2, 0).numpy()), boxes, labels, names, scores)
    with atomic_path(target) as temporary:
        picture.save(temporary, format="JPEG", quality=92, subsampling=0)
    objects = tuple(
        {"class": names[label], "label": label, "score": round(value, 4), "box": [round(side, 2) for side in box]}
        for box, value, label in zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True)
    )
    height, width = pixels.shape[-2:]
    return Prediction(file, target, width, height, objects, frames=count_frames(file))


def _entry(prediction: Prediction) -> dict[str, Any]:
    """What `predictions.json` says about one image."""
    if prediction.error is not None:
        return {"file": str(prediction.file), "error": prediction.error}
    return {
        "file": str(prediction.file),
        "picture": str(prediction.picture),
        "width": prediction.width,
        "height": prediction.height,
        "objects": list(prediction.objects),
    }
