"""Boxes: formats, overlaps, coders, priors, suppression of duplicates."""

from boxwright.boxes.anchors import AnchorGenerator
from boxwright.boxes.bins import weighting_function
from boxwright.boxes.coders import (
    DeltaCoder,
    DistanceCoder,
    IntegralCoder,
    PointCoder,
    YOLOCoder,
    YOLOv5Coder,
)
from boxwright.boxes.fine_grained import FineGrainedCoder
from boxwright.boxes.fitting import anchor_recall, fit_anchors, shape_iou
from boxwright.boxes.formats import (
    box_area,
    box_convert,
    clip_boxes,
    cxcywh_to_xyxy,
    scale_boxes,
    xywh_to_xyxy,
    xyxy_to_cxcywh,
    xyxy_to_xywh,
)
from boxwright.boxes.iou import IoUMode, aligned_iou, box_iou
from boxwright.boxes.nms import multiclass_nms, soft_nms
from boxwright.boxes.points import PointGenerator

__all__ = [
    "AnchorGenerator",
    "DeltaCoder",
    "DistanceCoder",
    "FineGrainedCoder",
    "IntegralCoder",
    "IoUMode",
    "PointCoder",
    "PointGenerator",
    "YOLOCoder",
    "YOLOv5Coder",
    "aligned_iou",
    "anchor_recall",
    "box_area",
    "box_convert",
    "box_iou",
    "clip_boxes",
    "cxcywh_to_xyxy",
    "fit_anchors",
    "multiclass_nms",
    "scale_boxes",
    "shape_iou",
    "soft_nms",
    "weighting_function",
    "xywh_to_xyxy",
    "xyxy_to_cxcywh",
    "xyxy_to_xywh",
]
