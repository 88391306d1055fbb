"""From a trained detector to one ONNX file, and the proof that it computes the same."""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from boxwright.data.images import read_image
from boxwright.engine.predict import find_images
from boxwright.engine.score import open_data
from boxwright.errors import RunError
from boxwright.extras import needs_extra
from boxwright.files import atomic_path
from boxwright.models import DenseDetector
from boxwright.models.images import MEAN, batch_images

__all__ = ["Difference", "ExportableDetector", "check_images", "compare_onnx", "export_onnx", "letterbox"]

_DIVISOR = 32  # the coarsest stride that images are padded to, as in `batch_images`
_OPSET = 18
_IMAGES = 8  # compared after an export


class ExportableDetector(nn.Module):
    """A detector as one graph of fixed shapes, images in, tensors out, which `torch.export.export` takes too.

    Args:
        detector: on the CPU; it is put into evaluation mode.
    """

    def __init__(self, detector: DenseDetector) -> None:
        super().__init__()
        self.detector = detector
        # channels-last strides mean nothing to a graph that is leaving PyTorch
        self.eval().to(memory_format=torch.contiguous_format)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes (B, L, 4), xyxy in pixels of these images, and scores (B, L, C) of every prior.

        Args:
            images: (B, 3, H, W) uint8 0..255, RGB, H and W multiples of 32.
        """
        predictions, priors = self.detector.predict(images)
        return self.detector.criterion.coder.decode(priors, predictions.params.float()), predictions.scores()


@dataclass(frozen=True)
class Difference:
    """How far an exported detector is from PyTorch on some images.

    Attributes:
        images: how many were compared.
        boxes: largest difference of a box side in pixels.
        scores: largest difference of a score.
    """

    images: int
    boxes: float
    scores: float

    def __str__(self) -> str:
        """Return one line."""
        return (
            f"onnxruntime against PyTorch on {self.images} images, largest difference: "
            f"boxes {self.boxes:.1e} px, scores {self.scores:.1e}"
        )


def export_onnx(detector: DenseDetector, path: Path, *, batch: int | None = 1) -> None:
    """Write a detector as ONNX: normalisation, network and decoding; suppressing duplicates is left to the caller.

    The file says in its metadata what the classes are, which image size it takes and the padding colour.

    Args:
        detector: on the CPU; it is left in evaluation mode.
        path: the file.
        batch: images per call; None leaves it open.

    Raises:
        BoxwrightError: the packages of `boxwright[export]` are not installed.
    """
    with needs_extra("export"):
        import onnx
        import onnxscript  # noqa: F401  torch.onnx needs it and would tell it in its own words
    module = ExportableDetector(detector)
    height, width = _canvas(detector.size)
    # two images for an open batch, because an example of one would fix it at one
    example = torch.zeros(batch or 2, 3, height, width, dtype=torch.uint8)
    shapes = None if batch else ({0: torch.export.Dim("batch")},)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with torch.no_grad():
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            opset_version=_OPSET,
            dynamic_shapes=shapes,
            input_names=["images"],
            output_names=["boxes", "scores"],
            verbose=False,
        )
    assert program is not None  # with dynamo=True
    model = program.model_proto
    colour = [round(255 * value) for value in MEAN]
    for key, value in {"classes": detector.class_names, "size": [height, width], "padding": colour}.items():
        model.metadata_props.add(key=key, value=json.dumps(value, ensure_ascii=False))
    with atomic_path(path) as temporary:
        onnx.save(model, str(temporary))


def check_images(source: str | Path, images: Iterable[str | Path] | None) -> list[Path]:
    """Return up to 8 image files to compare an export on: those given, else of the run's validation split.

    Raises:
        DataError: there are none.
        RunError: none are given, and `source` is no run folder that says where its data is.
    """
    if images:
        return [file for file, _ in find_images(images)][:_IMAGES]
    if not Path(source).is_dir():
        raise RunError(f"say which images to check the export of {source} on: --images FOLDER")
    return [record.path for record in open_data(source, None).split("val")[:_IMAGES]]


def letterbox(image: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Fit an image (3, h, w) uint8 into the canvas (3, H, W) that an exported detector takes, at its top left."""
    height, width = _canvas(size)
    scale = min(height / image.shape[-2], width / image.shape[-1])
    fitted = max(round(side * scale) for side in image.shape[-2:])
    pixels = batch_images([image], fitted).pixels[0, :, :height, :width]
    canvas = torch.tensor(MEAN).view(3, 1, 1).repeat(1, height, width)
    canvas[:, : pixels.shape[-2], : pixels.shape[-1]] = pixels
    return (canvas * 255).round().to(torch.uint8)


@torch.no_grad()
def compare_onnx(path: Path, detector: DenseDetector, files: Sequence[Path], *, batch: int | None = 1) -> Difference:
    """Run image files through an exported detector and through PyTorch.

    Args:
        path: written by `export_onnx`.
        detector: the one that was exported.
        files: images; the last call is filled up with the last image where the batch is fixed.
        batch: as exported.

    Raises:
        BoxwrightError: onnxruntime is not installed.
        DataError: an image cannot be read.
    """
    with needs_extra("export"):
        import onnxruntime
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    reference = ExportableDetector(detector)
    pixels = [letterbox(read_image(file), detector.size) for file in files]
    step = batch or len(pixels)
    largest = torch.zeros(2)
    for start in range(0, len(pixels), step):
        chunk = torch.stack((pixels[start : start + step] + pixels[-1:] * step)[:step])
        found = session.run(None, {"images": chunk.numpy()})
        apart = [(torch.from_numpy(a) - b).abs().max() for a, b in zip(found, reference(chunk), strict=True)]
        largest = largest.maximum(torch.stack(apart))
    return Difference(len(pixels), *largest.tolist())


def _canvas(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width of the images that an exported detector takes."""
    short, long = size if isinstance(size, tuple) else (size, size)
    return -(-short // _DIVISOR) * _DIVISOR, -(-long // _DIVISOR) * _DIVISOR
