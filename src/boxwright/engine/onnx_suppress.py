"""The suppression of duplicates (NMS) as ONNX operators."""

from typing import Any

import torch

import boxwright.boxes.suppress  # noqa: F401  which defines the operator

__all__ = ["translations"]


def translations() -> dict[Any, Any]:
    """Return what `torch.onnx.export` needs to write `suppress`."""
    return {torch.ops.boxwright.suppress.default: _to_onnx}


def _to_onnx(
    boxes: Any, scores: Any, labels: Any, classes: int, iou_threshold: float, max_detections: int
) -> tuple[Any, Any, Any, Any]:
    """Select by class and image, scatter the winners' scores back, and take the best of each image."""
    from onnxscript import opset18

    op: Any = opset18  # its types do not know constants, which the exporter makes of lists
    # room for K answers where there are fewer candidates; a score of 0 is never selected
    boxes = op.Pad(boxes, [0, 0, 0, 0, max_detections, 0])
    scores = op.Pad(scores, [0, 0, 0, max_detections])
    labels = op.Pad(labels, [0, 0, 0, max_detections])
    class_of = op.Unsqueeze(op.Constant(value_ints=[*range(classes)]), [0, 2])  # (1, C, 1)
    of_class = op.Equal(op.Unsqueeze(labels, [1]), class_of)  # (B, C, S)
    by_class = op.Where(of_class, op.Unsqueeze(scores, [1]), 0.0)
    chosen = op.NonMaxSuppression(boxes, by_class, [max_detections], [iou_threshold], [0.0])  # (M, 3)
    place = op.Gather(chosen, [0, 2], axis=1)  # image and candidate
    kept = op.ScatterND(op.Mul(scores, 0.0), place, op.GatherND(scores, place))
    best, index = op.TopK(kept, [max_detections], axis=1)
    index = op.Unsqueeze(index, [2])
    real = op.Cast(op.Greater(best, 0.0), to=7)  # int64
    found_boxes = op.Mul(op.GatherND(boxes, index, batch_dims=1), op.Cast(op.Unsqueeze(real, [2]), to=1))
    found_labels = op.Mul(op.GatherND(labels, index, batch_dims=1), real)
    return found_boxes, best, found_labels, op.ReduceSum(real, [1], keepdims=0)
