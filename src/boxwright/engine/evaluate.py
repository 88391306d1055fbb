"""From a detector and a loader to COCO's numbers, over any number of processes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from boxwright.data.coco import coco_content
from boxwright.data.dataset import Batch
from boxwright.data.records import ImageRecord
from boxwright.distributed import is_first, world_size
from boxwright.engine.coco import Metrics, coco_metrics
from boxwright.structures import Detections

__all__ = ["autocast", "coco_ground_truth", "coco_results", "detect", "evaluate"]

_AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def evaluate(
    detector: nn.Module,
    loader: Iterable[Batch],
    ground_truth: Mapping[str, Any],
    *,
    category_ids: Sequence[int | None] | None = None,
    precision: str = "32-true",
) -> Metrics:
    """Run a detector over a data set and compute COCO's metrics.

    In a process group every process calls this with its share of the images; each gets the metrics of all images, the
    first also the predictions. An image that several processes saw counts once.

    Args:
        detector: in torchvision's contract, `detector(images)` gives `Detections`; its mode is restored.
        loader: batches of this process.
        ground_truth: see `coco_ground_truth`; holds the images of all processes.
        category_ids: source id of every class of the detector, None for one that the ground truth lacks; by default
            those of the ground truth, in its order.
        precision: that of the run: 32-true, bf16-mixed or 16-mixed.
    """
    found = _gathered(detect(detector, loader, precision=precision))
    if found is None:
        return _broadcast(None)
    if category_ids is None:
        category_ids = [category["id"] for category in ground_truth["categories"]]
    metrics = coco_metrics(ground_truth, coco_results(found, category_ids))
    _broadcast(replace(metrics, predictions=()))
    return metrics


@torch.no_grad()
def detect(detector: nn.Module, loader: Iterable[Batch], *, precision: str = "32-true") -> dict[int, dict[str, Tensor]]:
    """Return the detections of every image by image id, with boxes in pixels of the stored image, on the CPU."""
    device = next(detector.parameters()).device
    was_training = detector.training
    detector.eval()
    answers: list[
        tuple[tuple[int, ...], Detections]
    ] = []  # left on the device, so that the host does not wait for each batch
    try:
        for batch in loader:
            batch = batch.to(device, non_blocking=True)
            images = batch.images.contiguous(memory_format=torch.channels_last)
            with autocast(device, precision):
                detections = detector(images)
            answers.append((batch.image_ids, replace(detections, boxes=batch.to_original(detections.boxes))))
    finally:
        detector.train(was_training)
    return {
        image_id: _with_area(answer)
        for image_ids, detections in answers
        for image_id, answer in zip(image_ids, detections.to("cpu"), strict=True)
    }


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which a run of a precision (Fabric's names) predicts."""
    dtype = _AUTOCAST.get(precision)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def _with_area(answer: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leave out boxes without area: those in the padding have none once they are mapped back to the image."""
    x1, y1, x2, y2 = answer["boxes"].unbind(dim=1)
    keep = (x2 > x1) & (y2 > y1)
    return {name: tensor[keep] for name, tensor in answer.items()}


def coco_results(found: Mapping[int, Mapping[str, Tensor]], category_ids: Sequence[int | None]) -> list[dict[str, Any]]:
    """Write detections in COCO's results format: image_id, category_id, bbox (x, y, width, height), score.

    Args:
        found: `boxes` (n, 4) xyxy, `scores` (n,), `labels` (n,) by image id.
        category_ids: source id of every label; detections of a label whose id is None are left out.
    """
    results: list[dict[str, Any]] = []
    for image_id in sorted(found):
        answer = found[image_id]
        upper, lower = answer["boxes"].double().chunk(2, dim=1)
        corners = torch.cat([upper, lower - upper], dim=1).tolist()
        for box, score, label in zip(corners, answer["scores"].tolist(), answer["labels"].tolist(), strict=True):
            category = category_ids[label]
            if category is not None:
                bbox = [round(value, 3) for value in box]
                results.append({"image_id": image_id, "category_id": category, "bbox": bbox, "score": round(score, 6)})
    return results


def coco_ground_truth(
    records: Iterable[ImageRecord], class_names: Sequence[str], category_ids: Sequence[int]
) -> dict[str, Any]:
    """Write records as the content of a COCO file.

    Args:
        records: annotated images, each with its own id.
        class_names: name of every label.
        category_ids: source id of every label.
    """
    return coco_content(((record.path.name, record) for record in records), class_names, category_ids)


def _gathered(found: dict[int, dict[str, Tensor]]) -> dict[int, dict[str, Tensor]] | None:
    """Return the detections of all processes on the first, None on the others."""
    if world_size() == 1:
        return found
    parts: list[Any] | None = [None] * world_size() if is_first() else None
    dist.gather_object(found, parts)
    return None if parts is None else {image_id: answer for part in parts for image_id, answer in part.items()}


def _broadcast(metrics: Metrics | None) -> Metrics:
    """Return the first process's metrics on every process."""
    box = [metrics]
    if world_size() > 1:
        dist.broadcast_object_list(box)
    assert box[0] is not None  # the first process always has some
    return box[0]
