"""YOLOv2's loss as longcw's yolo2-pytorch computes it: squared errors of everything, in pixels that count the last."""

from typing import Final

import torch
from torch import Tensor

from boxwright.boxes.formats import cxcywh_to_xyxy, scale_boxes
from boxwright.boxes.iou import aligned_iou, box_iou
from boxwright.distributed import mean_over_processes
from boxwright.losses.reduction import reduce, upcast
from boxwright.losses.systems.cells import (
    LARGEST_LOG,
    at_owner,
    centered_iou,
    decode_cells,
    last_owner,
    own_cell,
    read_cells,
    read_objects,
    slot_of,
    summed_classes,
)

__all__ = ["longcw_loss"]

# of slots without an object, which are drawn towards their anchors as long as training lasts
PRIOR_WEIGHT: Final = 0.01


def longcw_loss(
    output: Tensor,
    boxes: Tensor,
    labels: Tensor,
    valid: Tensor,
    *,
    anchors: Tensor,
    net_size: tuple[int, int],
    iou_thresh: float = 0.6,
    object_scale: float = 5.0,
    noobject_scale: float = 1.0,
    class_scale: float = 1.0,
    coord_scale: float = 1.0,
    anchor_offset: float = 0.0,
) -> dict[str, Tensor]:
    """Loss of YOLO9000 (Redmon and Farhadi 2017, arXiv:1612.08242) as longcw's yolo2-pytorch computes it.

    Squares of weighed errors: of exp(w) and exp(h) rather than their logarithms, of probabilities of the classes, and
    of the objectness, weighed `object_scale (1 - p)` towards the IoU of the prediction on slots with an object and
    `noobject_scale p` towards 0 elsewhere, these weights without gradient. Overlaps count the last pixel of a box. An
    image without objects, on which the original fails, is background.

    Args:
        output: (B, A (5 + C), H, W) raw output: x, y, w, h, objectness, classes per anchor.
        boxes: (B, G, 4) centre and size as fractions of the image.
        labels: (B, G) int64 classes.
        valid: (B, G) bool, entries that are objects; the others may hold anything. A later object takes a slot over
            from an earlier one, whose class stays.
        anchors: (A, 2) width and height in cells.
        net_size: height and width of the network's input in pixels.
        iou_thresh: predictions that overlap an object more than this are not pushed towards "no object".
        object_scale: weight of the objectness of slots with an object, before squaring, as are the others.
        noobject_scale: weight of the objectness of the others.
        class_scale: weight of the classes.
        coord_scale: weight of the boxes.
        anchor_offset: added to an object's sides when its anchor is chosen; the original has 1 (a cell, meant as a
            pixel).

    Returns:
        Scalars `box`, `objectness` and `class`: sums over the number of objects of all processes.

    Raises:
        TypeError: valid is not bool.
        ValueError: shapes that do not fit, or a label that is no class.
    """
    cells, grid = read_cells(upcast(output), anchors)
    boxes, labels = read_objects(cells, boxes, labels, valid)
    anchors = anchors.to(cells)
    objects = scale_boxes(boxes, grid.width, grid.height)
    sizes = objects[..., None, 2:] + anchor_offset
    slot = slot_of(objects, centered_iou(sizes, anchors).argmax(-1), grid)
    owner = last_owner(slot, valid, grid.slots)
    owned = owner >= 0

    stride = net_size[1] / grid.width, net_size[0] / grid.height
    corners = cxcywh_to_xyxy(scale_boxes(objects, *stride))
    predicted = cxcywh_to_xyxy(scale_boxes(decode_cells(cells.detach(), anchors, grid), *stride))
    iou = aligned_iou(predicted, at_owner(corners, owner), offset=1.0) * owned
    overlapped = (box_iou(predicted, corners, offset=1.0) > iou_thresh) & valid.unsqueeze(1)
    confidence = cells[..., 4].sigmoid()
    background = noobject_scale * confidence.detach() * ~overlapped.any(-1)
    mask = torch.where(owned, object_scale * (1 - confidence.detach()), background)

    own, has_object = at_owner(objects, owner), owned.unsqueeze(-1)
    shapes = anchors.repeat_interleave(grid.height * grid.width, dim=0)
    place = torch.where(has_object, own[..., :2] - own_cell(grid, cells.device), 0.5)
    size = torch.where(has_object, own[..., 2:] / shapes, 1.0)
    said = torch.cat([cells[..., :2].sigmoid(), cells[..., 2:4].clamp(max=LARGEST_LOG).exp()], dim=-1)
    box_weight = torch.where(has_object, coord_scale * has_object.to(cells), PRIOR_WEIGHT)
    classes = summed_classes(slot, labels, valid, grid.slots, cells.shape[-1] - 5)
    errors = {
        "box": box_weight * (said - torch.cat([place, size], dim=-1)),
        "objectness": mask * (confidence - iou),
        "class": class_scale * has_object * (cells[..., 5:].softmax(-1) - classes),
    }
    count = mean_over_processes(valid.sum())
    return {name: reduce(error.square(), "mean", normalizer=count) for name, error in errors.items()}
