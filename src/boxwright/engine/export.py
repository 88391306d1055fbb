"""From a trained detector to one ONNX file, and the check that it computes the same."""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from boxwright.boxes.suppress import suppress
from boxwright.counts import counted
from boxwright.data.images import read_image
from boxwright.engine.onnx_suppress import translations
from boxwright.engine.predict import find_images
from boxwright.engine.score import open_data
from boxwright.errors import RunError
from boxwright.extras import needs_extra
from boxwright.files import atomic_path
from boxwright.models import DenseDetector, TwoStageDetector
from boxwright.models.images import DIVISOR, MEAN, batch_images
from boxwright.structures import Detections

__all__ = ["Difference", "ExportableDetector", "check_images", "compare_onnx", "export_onnx", "letterbox"]

_OPSET = 18
_IMAGES = 8  # compared after an export
_SAME_BOX, _SAME_SCORE = 0.5, 0.01  # pixels and score within which two detections are the same one


class ExportableDetector(nn.Module):
    """A detector as one graph of fixed shapes, images in, tensors out, which `torch.export.export` takes too.

    Args:
        detector: on the CPU; it is put into evaluation mode.
        nms: whether duplicates are suppressed inside, by the thresholds of the detector's `postprocess`.

    Raises:
        RunError: a two-stage detector without `nms`; it suppresses duplicates among its proposals anyway.
    """

    def __init__(self, detector: DenseDetector, *, nms: bool = False) -> None:
        super().__init__()
        if isinstance(detector, TwoStageDetector) and not nms:
            raise RunError(
                "a two-stage detector has no list of priors that a caller could go through: export it with --nms"
            )
        self.detector = detector
        self.nms = nms
        # channels-last strides mean nothing to a graph that is leaving PyTorch
        self.eval().to(memory_format=torch.contiguous_format)

    @property
    def outputs(self) -> list[str]:
        """Names of what the graph returns."""
        return ["boxes", "scores", "labels", "count"] if self.nms else ["boxes", "scores"]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return boxes (B, L, 4), xyxy in pixels of these images, and scores (B, L, C) of every prior.

        With `nms` the K best detections, padded with zeros: boxes (B, K, 4), scores (B, K), labels (B, K) and how many
        there are (B,).

        Args:
            images: (B, 3, H, W) uint8 0..255, RGB, in a size that the detector was made for.
        """
        predictions, priors = self.detector.predict(images)
        coder, postprocess = self.detector.criterion.coder, self.detector.postprocess
        if not self.nms:
            return coder.decode(priors, predictions.params.float()), predictions.scores()
        candidates = postprocess.candidates(predictions, priors, coder, (images.shape[-2], images.shape[-1]))
        classes = predictions.logits.shape[-1]
        found: tuple[Tensor, ...] = suppress(
            *candidates, classes, postprocess.iou_threshold, postprocess.max_detections
        )
        return found


@dataclass(frozen=True)
class Difference:
    """How far an exported detector is from PyTorch on some images.

    Attributes:
        images: how many were compared.
        boxes: largest difference of a box side in pixels.
        scores: largest difference of a score.
        alone: detections that only one of the two has, where duplicates are suppressed inside.
    """

    images: int
    boxes: float
    scores: float
    alone: int = 0

    def __str__(self) -> str:
        """Return one line."""
        return (
            f"onnxruntime against PyTorch on {counted(self.images, 'image')}, largest difference: "
            f"boxes {self.boxes:.1e} px, scores {self.scores:.1e}"
            + (f", and {counted(self.alone, 'detection')} that only one of them has" if self.alone else "")
        )


def export_onnx(detector: DenseDetector, path: Path, *, batch: int | None = 1, nms: bool = False) -> None:
    """Write a detector as ONNX: normalisation, network, decoding and, if wanted, the suppression of duplicates.

    The file says in its metadata what the classes are, which image size it takes and the padding colour.

    Args:
        detector: on the CPU; it is left in evaluation mode.
        path: the file.
        batch: images per call; None leaves it open.
        nms: see `ExportableDetector`; without it suppressing duplicates is left to the caller.

    Raises:
        RunError: as in `ExportableDetector`, or the file cannot be written.
        BoxwrightError: the packages of `boxwright[export]` are not installed.
    """
    with needs_extra("export"):
        import onnx
        import onnxscript  # noqa: F401  torch.onnx needs it and would tell it in its own words
    module = ExportableDetector(detector, nms=nms)
    try:
        # opened before the network is traced, which takes longer than anybody waits to hear of a misspelt folder
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            onnx.save(_traced(module, batch), file)
    except OSError as error:
        raise RunError(f"cannot write {error.filename or path}: {error.strerror}") from error


def _traced(module: ExportableDetector, batch: int | None) -> Any:
    """Return an ONNX model that says what its classes are, which image size it takes and the padding colour."""
    detector = module.detector
    height, width = _canvas(detector.size)
    # two images for an open batch, because an example of one would fix it at one
    example = torch.zeros(batch or 2, 3, height, width, dtype=torch.uint8)
    shapes = None if batch else ({0: torch.export.Dim("batch")},)
    for exporter in ("torch.onnx", "onnxscript"):  # they log every node that they do not optimise
        logging.getLogger(exporter).setLevel(logging.ERROR)
    with torch.no_grad():
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            opset_version=_OPSET,
            dynamic_shapes=shapes,
            input_names=["images"],
            output_names=module.outputs,
            custom_translation_table=translations(),
            verbose=False,
        )
    assert program is not None  # with dynamo=True
    model: Any = program.model_proto
    colour = [round(255 * value) for value in MEAN]
    for key, value in {"classes": detector.class_names, "size": [height, width], "padding": colour}.items():
        model.metadata_props.add(key=key, value=json.dumps(value, ensure_ascii=False))
    return model


def check_images(source: str | Path, images: Iterable[str | Path] | None) -> list[Path]:
    """Return up to 8 image files to compare an export on: those given, else of the run's validation split.

    Raises:
        DataError: there are none.
        RunError: none are given, and `source` is not a run folder that says where its data is.
    """
    if images:
        return [file for file, _ in find_images(images)][:_IMAGES]
    if not (Path(source) / "data.json").is_file():
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
def compare_onnx(
    path: Path, detector: DenseDetector, files: Sequence[Path], *, batch: int | None = 1, nms: bool = False
) -> Difference:
    """Run image files through an exported detector and through PyTorch.

    Args:
        path: written by `export_onnx`.
        detector: the one that was exported.
        files: images; the last call is filled up with the last image where the batch is fixed.
        batch: as exported.
        nms: as exported.

    Raises:
        BoxwrightError: onnxruntime is not installed.
        DataError: an image cannot be read.
    """
    with needs_extra("export"):
        import onnxruntime
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    reference = ExportableDetector(detector, nms=nms)
    pixels = [letterbox(read_image(file), detector.size) for file in files]
    step = batch or len(pixels)
    largest, alone = torch.zeros(2), 0
    for start in range(0, len(pixels), step):
        chunk = torch.stack((pixels[start : start + step] + pixels[-1:] * step)[:step])
        found = [torch.from_numpy(output) for output in session.run(None, {"images": chunk.numpy()})]
        expected = reference(chunk)
        if nms:
            for ours, theirs in zip(Detections(*found), Detections(*expected), strict=True):
                apart, single = _apart(ours, theirs)
                largest, alone = largest.maximum(apart), alone + single
        else:
            apart = torch.stack([(a - b).abs().max() for a, b in zip(found, expected, strict=True)])
            largest = largest.maximum(apart)
    boxes, scores = largest.tolist()
    return Difference(len(pixels), boxes, scores, alone)


def _apart(found: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[Tensor, int]:
    """Return how far the boxes and the scores of detections are apart, and how many only one side has.

    Equal scores may come in another order, so each detection is compared with the nearest of its class.
    """
    sides = (found["boxes"][:, None] - expected["boxes"]).abs().amax(-1)  # (n, m)
    sides = sides.masked_fill(found["labels"][:, None] != expected["labels"], torch.inf)
    scores = (found["scores"][:, None] - expected["scores"]).abs()
    same = (sides < _SAME_BOX) & (scores < _SAME_SCORE)
    single = int((~same.any(1)).sum() + (~same.any(0)).sum())
    if not same.any():
        return sides.new_zeros(2), single
    nearest = torch.where(same, sides + scores, torch.inf)[same.any(1)].argmin(1, keepdim=True)
    return torch.stack([value[same.any(1)].gather(1, nearest).amax() for value in (sides, scores)]), single


def _canvas(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width of the images that an exported detector takes."""
    if isinstance(size, int):
        return size, size
    short, long = size
    return -(-short // DIVISOR) * DIVISOR, -(-long // DIVISOR) * DIVISOR
