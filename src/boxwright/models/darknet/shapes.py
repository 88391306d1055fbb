"""What is known of a darknet layer before anything runs."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import nn

from boxwright.models.darknet.config import CfgSection

__all__ = ["DetectionLayer", "Layer", "Shape"]


class Shape(NamedTuple):
    """Channels, height and width of what a layer gives for one image of the size in [net]."""

    channels: int
    height: int
    width: int

    def __str__(self) -> str:
        return "×".join(map(str, self))


@dataclass(frozen=True)
class DetectionLayer:
    """What a [region] or [yolo] section says about the output before it.

    Attributes:
        kind: which of the two.
        anchors: (width, height) in pixels of the network's input, of all layers.
        mask: which of them are this layer's.
        classes: number of classes.
        softmax: whether classes exclude each other.
        stride: pixels per cell.
        section: with the settings of its loss.
    """

    kind: Literal["region", "yolo"]
    anchors: tuple[tuple[float, float], ...]
    mask: tuple[int, ...]
    classes: int
    softmax: bool
    stride: int
    section: CfgSection

    @property
    def own_anchors(self) -> tuple[tuple[float, float], ...]:
        """The anchors in `mask`."""
        return tuple(self.anchors[index] for index in self.mask)


@dataclass(frozen=True)
class Layer:
    """One planned layer: its module, the layers it reads (-1 is the image), what comes out."""

    module: nn.Module
    sources: tuple[int, ...]
    shape: Shape
    detection: DetectionLayer | None = None
