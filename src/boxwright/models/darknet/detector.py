"""A darknet network as a detector."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from boxwright.boxes import AnchorGenerator, scale_boxes
from boxwright.counts import counted, listed
from boxwright.criteria import GridCriterion
from boxwright.models.darknet.network import Darknet
from boxwright.models.detector import DenseDetector
from boxwright.models.images import batch_images, to_float
from boxwright.models.layers import flatten_level
from boxwright.models.postprocess import Postprocess
from boxwright.structures import Detections, Predictions, Targets

__all__ = ["GridDetector", "GridHead"]

STRIDE = 32  # of the coarsest layer, which image sides are multiples of
BATCHES_PER_SIZE = 10


class GridHead(nn.Module):
    """Reads what a network gives before its detection layers as predictions; has no weights of its own.

    Args:
        num_classes: C.
        softmax: whether classes exclude each other; their logits are then turned into those of a sigmoid outside of
            training, so that scores are read as everywhere.
    """

    def __init__(self, num_classes: int, softmax: bool = False) -> None:
        super().__init__()
        self.num_classes, self.softmax = num_classes, softmax

    def forward(self, features: list[Tensor]) -> Predictions:
        """Map outputs (B, A (5 + C), H, W), finest first, to predictions, objectness as `extras["quality"]`."""
        cells = torch.cat([flatten_level(feature, 5 + self.num_classes) for feature in features], dim=1)
        params, objectness, logits = cells.split([4, 1, self.num_classes], dim=-1)
        if self.softmax and not self.training:
            logits = logits.float().softmax(dim=-1).logit(eps=1e-7)
        return Predictions(logits, params, {"quality": objectness})


class FinestFirst(nn.Module):
    """Puts a network's outputs, which darknet lists as they come, into the order of levels."""

    def __init__(self, order: Sequence[int]) -> None:
        super().__init__()
        self.order = tuple(order)

    def forward(self, outputs: list[Tensor]) -> list[Tensor]:
        """Reorder."""
        return [outputs[index] for index in self.order]


class GridDetector(DenseDetector):
    """YOLOv2 or v3: a darknet network that predicts boxes, objectness and classes for the anchors of every cell.

    It sees images as 0..1, without normalisation, as darknet's own networks do.

    Args:
        network: with at least one detection layer.
        criterion: fits its anchors.
        postprocess: `Predictions` and `Priors` to `Detections`.
        size: how a list of images is resized, see `batch_images`.
        class_names: names of the C classes.
        multi_scale: lowest and highest side that training batches are resized to, another multiple of 32 every ten
            batches (Redmon and Farhadi 2017, arXiv:1612.08242); None leaves them.

    Raises:
        ValueError: there is no detection layer, or the number of names is not that of its classes.
    """

    def __init__(
        self,
        network: Darknet,
        criterion: GridCriterion,
        postprocess: Postprocess,
        *,
        size: int | tuple[int, int],
        class_names: Sequence[str],
        multi_scale: tuple[int, int] | None = None,
    ) -> None:
        order = sorted(range(len(network.detections)), key=lambda index: network.detections[index].stride)
        layers = [network.detections[index] for index in order]
        if not layers:
            raise ValueError("the network has no [region] or [yolo] layer; it classifies whole images")
        for layer in layers:
            if layer.classes != len(class_names):
                raise ValueError(
                    f"{layer.section.place()} detects {counted(layer.classes, 'class')}, but there are "
                    f"{len(class_names)}: {listed(class_names, most=5)}"
                )
        strides, shapes = zip(*((float(layer.stride), layer.own_anchors) for layer in layers), strict=True)
        anchors: Any = AnchorGenerator(strides, shapes)
        super().__init__(
            network,
            FinestFirst(order),
            GridHead(layers[0].classes, layers[0].softmax),
            anchors,
            criterion,
            postprocess,
            size=size,
            class_names=class_names,
        )
        self.mean.zero_()
        self.std.fill_(1)
        self.multi_scale = multi_scale
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the image sizes of an epoch, the same in every process and after a resume."""
        self._draw, self._batches = random.Random(epoch), 0

    def forward(
        self,
        images: Tensor | Sequence[Tensor],
        targets: Targets | Sequence[Mapping[str, Tensor]] | None = None,
    ) -> dict[str, Tensor] | Detections:
        """Return losses in training, detections in evaluation; see `DenseDetector`."""
        if not self.training or self.multi_scale is None:
            return super().forward(images, targets)
        scales = None
        if not isinstance(images, Tensor):
            images, scales, _ = batch_images(images, self.size)
        return super().forward(*self._resized(images, self._targets(targets, images, scales)))

    def _resized(self, images: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
        """Scale a batch to the side that is drawn for every ten batches."""
        assert self.multi_scale is not None
        if self._batches % BATCHES_PER_SIZE == 0:
            low, high = self.multi_scale
            self._side = STRIDE * self._draw.randint(-(-low // STRIDE), high // STRIDE)
        self._batches += 1
        height, width = images.shape[-2:]
        factor = self._side / max(height, width)
        size = [max(STRIDE, round(side * factor / STRIDE) * STRIDE) for side in (height, width)]
        pixels = F.interpolate(to_float(images), size=size, mode="bilinear", antialias=True)
        boxes = scale_boxes(targets.boxes, size[1] / width, size[0] / height)
        return pixels, replace(targets, boxes=boxes)
