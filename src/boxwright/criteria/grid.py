"""The criteria of YOLOv2 and v3, whose terms darknet defines over a grid of cells as a whole."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from boxwright.assigners.regions import covered_by_crowd
from boxwright.boxes import YOLOCoder, scale_boxes, xyxy_to_cxcywh
from boxwright.distributed import all_reduce_sum, world_size
from boxwright.losses.systems import RegionLoss, darknet_yolo_loss, network_cost, yolov3_loss
from boxwright.losses.systems.region import RegionForm
from boxwright.structures import Predictions, Priors, Targets

__all__ = ["GridCriterion", "RegionCriterion", "YOLOCriterion"]

Anchors = Sequence[tuple[float, float]]
Masks = Sequence[Sequence[int]]
CERTAINLY_NOTHING = -30.0  # a logit whose sigmoid is too small for a cost


class GridCriterion(nn.Module):
    """What YOLO's losses share: from predictions back to the layers' outputs, and the mean over the images.

    Predictions hold the objectness as `extras["quality"]` (B, L, 1). Inside crowd regions nothing is pushed towards
    "no object".

    Args:
        anchors: (width, height) in pixels of the anchors of all levels.
        masks: for each level, finest first, which of them are its own.
        strides: for each level pixels per cell.

    Attributes:
        coder: decodes the boxes.
        seen: scalar, images of all processes that it was trained on; saved with the weights.
        cost: scalar, what darknet reports: the mean of the layers' costs, divided by `normalizer`.
        positives: scalar, number of images in the global batch.
        normalizer: scalar, images per process, what the sums over the images of this process are divided by.
    """

    seen: Tensor
    cost: Tensor
    positives: Tensor
    normalizer: Tensor

    def __init__(self, anchors: Anchors, masks: Masks, strides: Sequence[float]) -> None:
        super().__init__()
        self.anchors = tuple(anchors)
        self.masks = tuple(tuple(mask) for mask in masks)
        self.strides = tuple(strides)
        self.coder = YOLOCoder()
        for name in ("cost", "positives", "normalizer"):
            self.register_buffer(name, torch.ones(()), persistent=False)

    def forward(self, predictions: Predictions, priors: Priors, targets: Targets) -> dict[str, Tensor]:
        """Return the scalar losses `box`, `objectness` and `class` of a batch.

        Raises:
            ValueError: the priors have another number of levels or anchors.
        """
        own = [(len(mask), stride) for mask, stride in zip(self.masks, self.strides, strict=True)]
        if [(level.per_cell, level.stride) for level in priors.levels] != own:
            raise ValueError(f"the criterion has {own} anchors and strides, the priors have {priors.levels}")
        outputs = _outputs(predictions, priors, covered_by_crowd(priors, targets, 0.5))
        first = priors.levels[0]
        width, height = first.width * first.stride, first.height * first.stride
        boxes = scale_boxes(xyxy_to_cxcywh(targets.boxes), 1 / width, 1 / height)
        size = (round(height), round(width))
        self.positives = all_reduce_sum(torch.full((), float(len(predictions)), device=boxes.device))
        self.normalizer = self.positives.clamp(min=1) / world_size()
        layers = self.layer_losses(outputs, boxes, targets.labels, targets.objects, size)

        costs = [torch.stack([*terms.values()]).sum().detach() for terms in layers]
        self.cost = network_cost(costs) / self.normalizer
        return {name: torch.stack([terms[name] for terms in layers]).sum() / self.normalizer for name in layers[0]}

    def layer_losses(
        self, outputs: list[Tensor], boxes: Tensor, labels: Tensor, valid: Tensor, size: tuple[int, int]
    ) -> list[dict[str, Tensor]]:
        """Return the terms of each level, summed over the images.

        Args:
            outputs: per level (B, A (5 + C), H, W).
            boxes: (B, G, 4) centre and size as fractions of the image.
            labels: (B, G) int64.
            valid: (B, G) bool, entries that are objects.
            size: height and width of the images in pixels.
        """
        raise NotImplementedError

    def _cells(self, level: int) -> tuple[tuple[float, float], ...]:
        """Own anchors of a level, in cells."""
        own, stride = (self.anchors[index] for index in self.masks[level]), self.strides[level]
        return tuple((width / stride, height / stride) for width, height in own)


class RegionCriterion(GridCriterion):
    """YOLOv2's loss: J. Redmon and A. Farhadi, "YOLO9000: Better, Faster, Stronger", 2017, arXiv:1612.08242.

    Args:
        anchors: (width, height) in pixels.
        masks: one level with all anchors.
        strides: its pixels per cell.
        form: "darknet" passes on its deltas as gradient and reports their squares, "pytorch-yolo2" and "andy-yun"
            differentiate.
        thresh: see `region_loss`, as are the other settings.
    """

    def __init__(
        self,
        anchors: Anchors,
        masks: Masks,
        strides: Sequence[float],
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
        super().__init__(anchors, masks, strides)
        self.loss = RegionLoss(
            self._cells(0), form, thresh, object_scale, noobject_scale, class_scale, coord_scale, rescore,
            softmax, bias_match, warmup,
        )  # fmt: skip

    @property
    def seen(self) -> Tensor:  # type: ignore[override]
        """The loss counts, because it changes with the count."""
        return self.loss.seen

    def layer_losses(
        self, outputs: list[Tensor], boxes: Tensor, labels: Tensor, valid: Tensor, size: tuple[int, int]
    ) -> list[dict[str, Tensor]]:
        """Return the terms of the only level."""
        return [self.loss(output, boxes, labels, valid) for output in outputs]


class YOLOCriterion(GridCriterion):
    """YOLOv3's loss: J. Redmon and A. Farhadi, "YOLOv3: An Incremental Improvement", 2018, arXiv:1804.02767.

    Args:
        anchors: (width, height) in pixels of the anchors of all levels.
        masks: for each level, finest first, which of them are its own.
        strides: for each level pixels per cell.
        form: "darknet" passes on its deltas as gradient and reports their squares; "pytorch-yolov3" is PyTorch-YOLOv3's
            current loss, 1 - CIoU with every anchor of a similar shape, to which the thresholds mean nothing.
        ignore_thresh: see `darknet_yolo_loss`.
        truth_thresh: likewise.
    """

    pixels: Tensor

    def __init__(
        self,
        anchors: Anchors,
        masks: Masks,
        strides: Sequence[float],
        form: Literal["darknet", "pytorch-yolov3"] = "darknet",
        ignore_thresh: float = 0.7,
        truth_thresh: float = 1.0,
    ) -> None:
        super().__init__(anchors, masks, strides)
        self.form = form
        self.ignore_thresh = ignore_thresh
        self.truth_thresh = truth_thresh
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("pixels", torch.tensor(self.anchors), persistent=False)
        for level in range(len(self.masks)):
            self.register_buffer(f"cells_{level}", torch.tensor(self._cells(level)), persistent=False)

    def forward(self, predictions: Predictions, priors: Priors, targets: Targets) -> dict[str, Tensor]:
        """Return the scalar losses of a batch, and count its images in training."""
        losses = super().forward(predictions, priors, targets)
        if self.training:
            self.seen += self.positives.long()
        return losses

    def layer_losses(
        self, outputs: list[Tensor], boxes: Tensor, labels: Tensor, valid: Tensor, size: tuple[int, int]
    ) -> list[dict[str, Tensor]]:
        """Return the terms of each level; of the form "pytorch-yolov3" as one, since it weighs them together."""
        if self.form == "pytorch-yolov3":
            own = [self.get_buffer(f"cells_{level}") for level in range(len(outputs))]
            terms = yolov3_loss(outputs, boxes, labels, valid, anchors=own)
            return [{name: self.normalizer * term for name, term in terms.items()}]  # means, where the others are sums
        return [
            darknet_yolo_loss(
                output,
                boxes,
                labels,
                valid,
                anchors=self.pixels,
                mask=mask,
                net_size=size,
                ignore_thresh=self.ignore_thresh,
                truth_thresh=self.truth_thresh,
            )
            for output, mask in zip(outputs, self.masks, strict=True)
        ]


def _outputs(predictions: Predictions, priors: Priors, covered: Tensor) -> list[Tensor]:
    """What the layers gave: (B, A (5 + C), H, W) per level, from predictions in the order of the priors."""
    objectness = predictions.extras["quality"]
    objectness = torch.where(covered.unsqueeze(-1), CERTAINLY_NOTHING, objectness)
    cells = torch.cat([predictions.params, objectness, predictions.logits], dim=-1)  # (B, L, 5 + C)
    outputs = []
    for level, part in zip(priors.levels, cells.split([level.size for level in priors.levels], dim=1), strict=True):
        grid = part.unflatten(1, (level.height, level.width, level.per_cell))  # (B, H, W, A, 5 + C)
        outputs.append(grid.permute(0, 3, 4, 1, 2).flatten(1, 2))
    return outputs
