"""Darknet's way to train: every output has a difference to its target that is passed on as it is.

darknet calls it delta: scale times target minus *activated* output, without the activation's derivative. Its reported
cost is the sum of the squared deltas, so value and gradient do not belong to the same function, and both are what
people compare with. (The gradient alone is that of cross-entropy on x, y, objectness and classes, and half squared
error on w and h.)
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from boxwright.boxes.formats import scale_boxes
from boxwright.losses.reduction import upcast
from boxwright.losses.systems.cells import (
    CellTargets,
    at_owner,
    best_overlap,
    centered_iou,
    decode_cells,
    encode_objects,
    last_owner,
    one_hot,
    read_cells,
    read_objects,
    slot_of,
    summed_classes,
)

__all__ = ["darknet_terms", "darknet_yolo_loss", "network_cost"]


def darknet_terms(cells: Tensor, targets: CellTargets, softmax: bool) -> dict[str, Tensor]:
    """Scalars `box`, `objectness`, `class` with darknet's cost as value and darknet's delta as (negative) gradient.

    Args:
        cells: (B, N, 5 + C) raw slots.
        targets: of the same slots.
        softmax: whether the classes' activation is softmax, else sigmoid.
    """
    raw = {"box": cells[..., :4], "objectness": cells[..., 4], "class": cells[..., 5:]}
    activated = cells.detach().sigmoid()
    classes = raw["class"].detach().softmax(-1) if softmax else activated[..., 5:]
    box = torch.cat([targets.xy - activated[..., :2], targets.wh - cells.detach()[..., 2:4]], dim=-1)
    delta = {
        "box": targets.box_weight.unsqueeze(-1) * box,
        "objectness": targets.objectness_weight * (targets.objectness - activated[..., 4]),
        "class": targets.class_weight.unsqueeze(-1) * (targets.classes - classes),
    }
    return {name: _with_gradient(delta[name].square().sum(), raw[name], -delta[name]) for name in raw}


def darknet_yolo_loss(
    output: Tensor,
    boxes: Tensor,
    labels: Tensor,
    valid: Tensor,
    *,
    anchors: Tensor,
    mask: Sequence[int],
    net_size: tuple[int, int],
    ignore_thresh: float = 0.5,
    truth_thresh: float = 1.0,
) -> dict[str, Tensor]:
    """Loss of darknet's yolo layer (Redmon and Farhadi 2018, arXiv:1804.02767): one of YOLOv3's scales.

    Each object trains the slot of its centre with the anchor of the most similar shape, if that is one of this layer.
    Several objects on a slot: the last one's box, and the classes of all of them (darknet loses some where the error
    of class 0 is exactly 0).

    Args:
        output: (B, A (5 + C), H, W) raw output of the layer.
        boxes: (B, G, 4) centre and size as fractions of the image.
        labels: (B, G) int64 classes.
        valid: (B, G) bool, entries that are objects; the others may hold anything.
        anchors: (K, 2) width and height in pixels of the network's input, of all layers.
        mask: indices of this layer's A anchors.
        net_size: height and width of the network's input in pixels.
        ignore_thresh: predictions that overlap an object more than this are not pushed towards "no object".
        truth_thresh: predictions that overlap an object more than this are trained to be it.

    Returns:
        Scalar sums `box`, `objectness` and `class`; values and gradients as `darknet_terms` says.

    Raises:
        TypeError: valid is not bool.
        ValueError: shapes that do not fit, or a label that is no class.
    """
    cells, grid = read_cells(upcast(output), anchors[: len(mask)])
    boxes, labels = read_objects(cells, boxes, labels, valid)
    anchors = scale_boxes(anchors.to(cells), grid.width / net_size[1], grid.height / net_size[0])
    own = torch.stack([anchors[index] for index in mask])
    objects = scale_boxes(boxes, grid.width, grid.height)
    overlap, nearest = best_overlap(decode_cells(cells.detach(), own, grid), objects, valid)

    best = centered_iou(objects[..., None, 2:], anchors).argmax(-1)
    here = torch.stack([best == index for index in mask], dim=-1)
    claims = valid & here.any(-1)
    slot = slot_of(objects, here.to(torch.int64).argmax(-1), grid)
    owner = last_owner(slot, claims, grid.slots)
    near = overlap > truth_thresh
    owner = torch.where((owner < 0) & near, nearest, owner)
    owned = (owner >= 0).to(cells.dtype)

    classes = summed_classes(slot, labels, claims, grid.slots, cells.shape[-1] - 5)
    close = near.unsqueeze(-1) & one_hot(at_owner(labels, nearest), classes.shape[-1])
    xy, wh = encode_objects(objects, owner, own, grid)
    targets = CellTargets(
        xy=xy,
        wh=wh,
        box_weight=owned * (2 - at_owner(boxes[..., 2:].prod(-1), owner)),
        objectness=owned,
        objectness_weight=torch.maximum(owned, overlap <= ignore_thresh),
        classes=torch.maximum(classes, close),
        class_weight=owned,
    )
    return darknet_terms(cells, targets, softmax=False)


def network_cost(costs: Sequence[Tensor | None]) -> Tensor:
    """Mean of the layers' costs; layers without one (None) do not count.

    Raises:
        ValueError: no layer has a cost.
    """
    counted = [cost for cost in costs if cost is not None]
    if not counted:
        raise ValueError(f"none of {len(costs)} layers has a cost")
    return torch.stack(counted).mean()


def _with_gradient(value: Tensor, inputs: Tensor, gradient: Tensor) -> Tensor:
    """A scalar of the given value whose gradient with respect to `inputs` is the given one."""
    linear = (inputs * gradient).sum()
    return value.detach() + (linear - linear.detach())
