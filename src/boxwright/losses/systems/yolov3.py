"""YOLOv3's loss in PyTorch, as PyTorch-YOLOv3 had it in 2018 and has it now."""

from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.boxes.formats import cxcywh_to_xyxy, scale_boxes
from boxwright.distributed import mean_over_processes
from boxwright.kernels.overlap import PairGeometry
from boxwright.losses.boxes import overlap_loss
from boxwright.losses.iou import aspect_gap, iou_added, squared_distance_ratio
from boxwright.losses.reduction import reduce, upcast
from boxwright.losses.systems.cells import (
    LARGEST_LOG,
    at_owner,
    centered_iou,
    encode_objects,
    last_owner,
    one_hot,
    read_cells,
    read_objects,
    slot_of,
)

__all__ = ["mean_over", "yolov3_layer_loss", "yolov3_loss"]

EPS: Final = 1e-9


def yolov3_layer_loss(
    output: Tensor,
    boxes: Tensor,
    labels: Tensor,
    valid: Tensor,
    *,
    anchors: Tensor,
    ignore_thresh: float = 0.5,
    anchor_offset: float = 0.0,
    objectness_scale: float = 1.0,
) -> dict[str, Tensor]:
    """Loss of one scale of YOLOv3 (Redmon and Farhadi 2018, arXiv:1804.02767), PyTorch-YOLOv3's first form.

    Squared errors of σ(x), σ(y), w, h; cross-entropy of objectness, the mean over slots with an object plus the mean
    over background; softmax cross-entropy of the classes over B. An object trains the anchor of its cell with the most
    similar shape; its cell's other anchors are ignored where they are similar enough. Unlike the original, classes see
    logits, a slot has the class of its last object, an object's slot is never background, and no object costs 0.

    Args:
        output: (B, A (5 + C), H, W) raw output: x, y, w, h, objectness, classes per anchor.
        boxes: (B, G, 4) centre and size as fractions of the image.
        labels: (B, G) int64 classes.
        valid: (B, G) bool, entries that are objects; the others may hold anything.
        anchors: (A, 2) width and height in cells.
        ignore_thresh: least overlap of shapes for an anchor of an object's cell to be ignored.
        anchor_offset: added to the sides when shapes are compared; the original has 1 (a cell, meant as a pixel).
        objectness_scale: 0.5 gives a revision that halves the objectness.

    Returns:
        Scalars `box`, `objectness` and `class`, means over the slots of all processes.

    Raises:
        TypeError: valid is not bool.
        ValueError: shapes that do not fit, or a label that is no class.
    """
    cells, grid = read_cells(upcast(output), anchors)
    boxes, labels = read_objects(cells, boxes, labels, valid)
    anchors = anchors.to(cells)
    objects = scale_boxes(boxes, grid.width, grid.height)
    similarity = centered_iou(objects[..., None, 2:], anchors, anchor_offset)
    every = torch.arange(grid.anchors, device=cells.device).expand(similarity.shape)
    owner = last_owner(slot_of(objects, similarity.argmax(-1), grid), valid, grid.slots)
    similar = valid.unsqueeze(-1) & (similarity > ignore_thresh)
    ignored = last_owner(slot_of(objects, every, grid).flatten(1), similar.flatten(1), grid.slots) >= 0
    owned = owner >= 0

    xy, wh = encode_objects(objects, owner, anchors, grid)
    errors = torch.cat([cells[..., :2].sigmoid() - xy, cells[..., 2:4] - wh], dim=-1).square().sum(-1)
    objectness = F.binary_cross_entropy_with_logits(cells[..., 4], owned.to(cells), reduction="none")
    target = one_hot(at_owner(labels, owner), cells.shape[-1] - 5)
    class_loss = -(cells[..., 5:].log_softmax(-1) * target).sum(-1)
    return {
        "box": mean_over(errors, owned),
        "objectness": objectness_scale * (mean_over(objectness, owned) + mean_over(objectness, ~owned & ~ignored)),
        "class": mean_over(class_loss, owned) / max(len(output), 1),
    }


def yolov3_loss(
    outputs: Sequence[Tensor],
    boxes: Tensor,
    labels: Tensor,
    valid: Tensor,
    *,
    anchors: Sequence[Tensor],
    ratio_thresh: float = 4.0,
    box_gain: float = 0.05,
    objectness_gain: float = 1.0,
    class_gain: float = 0.5,
) -> dict[str, Tensor]:
    """Loss of all scales of YOLOv3, PyTorch-YOLOv3's current form.

    An object trains every anchor of its cell, on every scale, whose sides are within `ratio_thresh` times its own:
    1 - CIoU, objectness towards the CIoU, and a cross-entropy per class (left out with a single class).

    Args:
        outputs: per scale (B, A (5 + C), H, W) raw output: x, y, w, h, objectness, classes per anchor.
        boxes: (B, G, 4) centre and size as fractions of the image.
        labels: (B, G) int64 classes.
        valid: (B, G) bool, entries that are objects; the others may hold anything.
        anchors: per scale (A, 2) width and height in cells.
        ratio_thresh: see above.
        box_gain: weight of the boxes.
        objectness_gain: weight of the objectness.
        class_gain: weight of the classes.

    Returns:
        Scalars `box`, `objectness` and `class`: sums over scales of means over the matches (objectness: over all slots)
        of all processes, with the gains.

    Raises:
        TypeError, ValueError: as `yolov3_layer_loss`.
    """
    scales = [
        _scale_terms(output, boxes, labels, valid, own, ratio_thresh)
        for output, own in zip(outputs, anchors, strict=True)
    ]
    gains = {"box": box_gain, "objectness": objectness_gain, "class": class_gain}
    return {name: gain * torch.stack([scale[name] for scale in scales]).sum() for name, gain in gains.items()}


def _scale_terms(
    output: Tensor, boxes: Tensor, labels: Tensor, valid: Tensor, anchors: Tensor, ratio_thresh: float
) -> dict[str, Tensor]:
    cells, grid = read_cells(upcast(output), anchors)
    boxes, labels = read_objects(cells, boxes, labels, valid)
    anchors = anchors.to(cells)
    objects = scale_boxes(boxes, grid.width, grid.height)
    ratio = objects[..., None, 2:] / anchors
    matched = (valid.unsqueeze(-1) & (torch.maximum(ratio, 1 / ratio).amax(-1) < ratio_thresh)).flatten(1)
    every = torch.arange(grid.anchors, device=cells.device).expand(ratio.shape[:-1])
    slot = slot_of(objects, every, grid).flatten(1)

    # one row per object and anchor: what the anchor's slot says, and the object relative to its cell
    said = cells.gather(1, slot.unsqueeze(-1).expand(-1, -1, cells.shape[-1]))
    size = said[..., 2:4].clamp(max=LARGEST_LOG).exp() * anchors.repeat(boxes.shape[1], 1)
    predicted = torch.cat([said[..., :2].sigmoid(), size], dim=-1)
    within = torch.cat([objects[..., :2] - objects[..., :2].floor(), objects[..., 2:]], dim=-1)
    target = within.repeat_interleave(grid.anchors, dim=1)
    box_loss = overlap_loss(_one_minus_ciou, cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(target), None, "none", None)

    owner = last_owner(slot, matched, grid.slots)
    quality = at_owner((1 - box_loss.detach()).clamp(min=0), owner)
    objectness = F.binary_cross_entropy_with_logits(cells[..., 4], quality, reduction="none")
    classes = cells.shape[-1] - 5
    wanted = one_hot(labels, classes).to(cells).repeat_interleave(grid.anchors, dim=1)
    class_loss = F.binary_cross_entropy_with_logits(said[..., 5:], wanted, reduction="none")
    return {
        "box": mean_over(box_loss, matched),
        "objectness": mean_over(objectness, torch.ones_like(owner, dtype=torch.bool)),
        "class": mean_over(class_loss.mean(-1), matched) if classes > 1 else class_loss.sum() * 0,
    }


def _one_minus_ciou(pair: PairGeometry) -> Tensor:
    """CIoU's loss (Zheng et al. 2020, arXiv:2005.03572) as this project has it: one small eps for every divisor."""
    iou, gap = iou_added(pair, EPS), aspect_gap(pair, EPS)
    with torch.no_grad():
        alpha = gap / (1 + EPS - iou + gap)
    return 1 - iou + squared_distance_ratio(pair, EPS) + alpha * gap


def mean_over(loss: Tensor, counted: Tensor) -> Tensor:
    """Mean of a loss over the entries that are counted (bool) in all processes; 0 without any."""
    count = mean_over_processes(counted.sum())
    return reduce(torch.where(counted, loss, 0), "mean", normalizer=count)
