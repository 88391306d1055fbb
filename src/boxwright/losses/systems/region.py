"""YOLOv2's loss: darknet's region layer, and the forms of two PyTorch ports."""

from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor, nn

from boxwright.boxes.formats import cxcywh_to_xyxy, scale_boxes
from boxwright.boxes.iou import aligned_iou
from boxwright.distributed import all_reduce_sum
from boxwright.losses.reduction import check_choice, upcast
from boxwright.losses.systems.cells import (
    TINY,
    CellTargets,
    Grid,
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
from boxwright.losses.systems.darknet import darknet_terms

__all__ = ["RegionLoss", "region_loss", "region_targets"]

RegionForm = Literal["darknet", "pytorch-yolo2", "andy-yun"]
# how strongly a slot without an object is drawn towards its anchor in the warm-up; of half the squared error but for
# darknet, which has a delta
_PRIOR_WEIGHT: Final[dict[RegionForm, float]] = {"darknet": 0.01, "pytorch-yolo2": 1.0, "andy-yun": 2 * 0.01**2}


def region_loss(
    output: Tensor,
    boxes: Tensor,
    labels: Tensor,
    valid: Tensor,
    *,
    anchors: Tensor,
    seen: Tensor | int,
    form: RegionForm = "darknet",
    thresh: float = 0.6,
    object_scale: float = 5.0,
    noobject_scale: float = 1.0,
    class_scale: float = 1.0,
    coord_scale: float = 1.0,
    rescore: bool = True,
    softmax: bool = True,
    bias_match: bool = True,
    warmup: int = 12800,
) -> dict[str, Tensor]:
    """Loss of YOLO9000 (Redmon and Farhadi 2017, arXiv:1612.08242) as darknet's region layer and its ports compute it.

    Form "darknet": the gradient of each output is scale (activated - target), as if every output had a cross-entropy;
    the values are darknet's reported cost, the squares of these, so they are not the antiderivative. Form
    "pytorch-yolo2": half squared errors through the sigmoid and cross-entropy of the classes, boxes weighed 1 instead
    of 2 - w h, the prior warm-up weighed 1 instead of 0.01. Form "andy-yun" differentiates darknet's cost instead of
    using its deltas: weights but for `coord_scale` and `class_scale` multiply before squaring, so that `object_scale`
    5 acts as 25; cross-entropy of the classes. Nothing is divided by the batch, which andy-yun's fork does.

    Args:
        output: (B, A (5 + C), H, W) raw output: x, y, w, h, objectness, classes per anchor.
        boxes: (B, G, 4) centre and size as fractions of the image.
        labels: (B, G) int64 classes.
        valid: (B, G) bool, entries that are objects; the others may hold anything. A later object takes a slot over
            from an earlier one.
        anchors: (A, 2) width and height in cells.
        seen: images seen so far; below `warmup` every slot is also drawn towards its anchor.
        form: "darknet", "pytorch-yolo2" or "andy-yun".
        thresh: predictions that overlap an object more than this are not pushed towards "no object".
        object_scale: weight of the objectness of slots with an object.
        noobject_scale: weight of the objectness of the others.
        class_scale: weight of the classes.
        coord_scale: weight of the boxes.
        rescore: whether the objectness target is the IoU of the prediction, else 1.
        softmax: whether classes exclude each other; else a slot learns the classes of all its objects ("darknet" only).
        bias_match: whether the best anchor is found by the anchors' sizes, else by the predicted sizes.
        warmup: see `seen`.

    Returns:
        Scalar sums `box`, `objectness` and `class`.

    Raises:
        TypeError: valid is not bool.
        ValueError: shapes that do not fit, a label that is no class, or a form that is unknown or needs softmax.
    """
    check_choice("form", form, get_args(RegionForm))
    if form != "darknet" and not softmax:
        raise ValueError(f"form={form!r} has softmax classes only; pass softmax=True or form='darknet'")
    cells, grid = read_cells(upcast(output), anchors)
    boxes, labels = read_objects(cells, boxes, labels, valid)
    anchors = anchors.to(cells)
    targets = region_targets(
        cells.detach(),
        boxes,
        labels,
        valid,
        anchors=anchors,
        grid=grid,
        thresh=thresh,
        rescore=rescore,
        bias_match=bias_match,
        exclusive=softmax,
    )
    owned = targets.class_weight > 0
    early = seen < warmup
    prior_weight = _PRIOR_WEIGHT[form] * (early.to(cells) if isinstance(early, Tensor) else early)
    if form != "darknet":  # which does not scale the draw towards the anchors
        prior_weight = coord_scale * prior_weight
    size_weight = 2 - targets.box_weight if form != "pytorch-yolo2" else torch.ones_like(targets.box_weight)
    objectness_weight = torch.where(owned, object_scale, noobject_scale * targets.objectness_weight)
    if form == "andy-yun":
        size_weight, objectness_weight = 2 * size_weight.square(), 2 * objectness_weight.square()
    targets = targets._replace(
        xy=torch.where(owned.unsqueeze(-1), targets.xy, 0.5),
        wh=torch.where(owned.unsqueeze(-1), targets.wh, 0.0),
        box_weight=torch.where(owned, coord_scale * size_weight, prior_weight),
        objectness_weight=objectness_weight,
        class_weight=class_scale * targets.class_weight,
    )
    return darknet_terms(cells, targets, softmax) if form == "darknet" else _squared_terms(cells, targets)


def region_targets(
    cells: Tensor,
    boxes: Tensor,
    labels: Tensor,
    valid: Tensor,
    *,
    anchors: Tensor,
    grid: Grid,
    thresh: float = 0.6,
    rescore: bool = True,
    bias_match: bool = True,
    exclusive: bool = True,
) -> CellTargets:
    """Match objects with slots by the cell of the centre and the most similar shape; arguments as `region_loss`.

    Returns:
        Targets without scales: `box_weight` holds the area w h of the slot's object as a fraction of the image,
        `objectness_weight` is 1 where no object overlaps the prediction by more than `thresh`, `class_weight` is 1 on
        slots with an object.
    """
    objects = scale_boxes(boxes, grid.width, grid.height)
    predicted = decode_cells(cells, anchors, grid)
    overlap, _ = best_overlap(predicted, objects, valid)
    sizes = anchors if bias_match else _predicted_sizes(predicted, objects, grid)
    slot = slot_of(objects, centered_iou(objects[..., None, 2:], sizes).argmax(-1), grid)
    owner = last_owner(slot, valid, grid.slots)
    owned = (owner >= 0).to(cells.dtype)
    xy, wh = encode_objects(objects, owner, anchors, grid)
    iou = aligned_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(at_owner(objects, owner)), eps=TINY)
    classes = cells.shape[-1] - 5
    multiple = summed_classes(slot, labels, valid, grid.slots, classes)
    single = one_hot(at_owner(labels, owner), classes) * owned.unsqueeze(-1)
    return CellTargets(
        xy=xy,
        wh=wh,
        box_weight=at_owner(boxes[..., 2:].prod(-1), owner),
        objectness=(iou if rescore else 1) * owned,
        objectness_weight=(overlap <= thresh).to(cells.dtype),
        classes=(single if exclusive else multiple).to(cells.dtype),
        class_weight=owned,
    )


def _predicted_sizes(predicted: Tensor, objects: Tensor, grid: Grid) -> Tensor:
    """Sizes (B, G, A, 2) that the anchors of each object's cell predict."""
    anchor = torch.arange(grid.anchors, device=predicted.device).expand(*objects.shape[:2], -1)
    slot = slot_of(objects, anchor, grid).flatten(1)
    return predicted[..., 2:].gather(1, slot.unsqueeze(-1).expand(-1, -1, 2)).view(*anchor.shape, 2)


def _squared_terms(cells: Tensor, targets: CellTargets) -> dict[str, Tensor]:
    """Half squared errors of boxes and objectness, cross-entropy of the classes."""
    coordinates = torch.cat([cells[..., :2].sigmoid() - targets.xy, cells[..., 2:4] - targets.wh], dim=-1)
    objectness = cells[..., 4].sigmoid() - targets.objectness
    log_likelihood = (cells[..., 5:].log_softmax(-1) * targets.classes).sum(-1)
    return {
        "box": (targets.box_weight.unsqueeze(-1) * coordinates.square()).sum() / 2,
        "objectness": (targets.objectness_weight * objectness.square()).sum() / 2,
        "class": -(targets.class_weight * log_likelihood).sum(),
    }


class RegionLoss(nn.Module):
    """`region_loss` that counts in a buffer the images that all processes have `seen` in training mode."""

    anchors: Tensor
    seen: Tensor

    def __init__(
        self,
        anchors: tuple[tuple[float, float], ...],
        form: RegionForm = "darknet",
        thresh: float = 0.6,
        object_scale: float = 5.0,
        noobject_scale: float = 1.0,
        class_scale: float = 1.0,
        coord_scale: float = 1.0,
        rescore: bool = True,
        softmax: bool = True,
        bias_match: bool = True,
        warmup: int = 12800,
    ) -> None:
        super().__init__()
        self.hyper: dict[str, Any] = {
            "form": form,
            "thresh": thresh,
            "object_scale": object_scale,
            "noobject_scale": noobject_scale,
            "class_scale": class_scale,
            "coord_scale": coord_scale,
            "rescore": rescore,
            "softmax": softmax,
            "bias_match": bias_match,
            "warmup": warmup,
        }
        self.register_buffer("anchors", torch.tensor(anchors, dtype=torch.float32), persistent=False)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, output: Tensor, boxes: Tensor, labels: Tensor, valid: Tensor) -> dict[str, Tensor]:
        """See `region_loss`."""
        seen = self.seen.clone()
        if self.training:
            self.seen += all_reduce_sum(torch.full_like(self.seen, len(output)))
        return region_loss(output, boxes, labels, valid, anchors=self.anchors, seen=seen, **self.hyper)
