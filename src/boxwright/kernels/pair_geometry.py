"""What losses of the overlap see of pairs of boxes: extents per axis, areas and squared lengths."""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

__all__ = ["QUANTITIES", "PairGeometry"]


class PairGeometry:
    """What a loss sees of n pairs of boxes, computed when asked for.

    Extents are (2, n), x axis and y axis; areas and squared lengths (n,).

    Args:
        boxes: (4, n) coordinate planes x1, y1, x2, y2 of the predictions.
        targets: the same of the targets.
        leaves: names of what is a leaf of a gradient of its own.
    """

    def __init__(self, boxes: Tensor, targets: Tensor, leaves: frozenset[str] = frozenset()) -> None:
        self.low, self.high = boxes.split(2)
        self.target_low, self.target_high = targets.split(2)
        self.leaves = leaves
        self.known: dict[str, Tensor] = {}

    @property
    def inner(self) -> Tensor:
        """Extent of the intersection, at least 0."""
        return self._keep("inner", _inner_extent)

    @property
    def hull(self) -> Tensor:
        """Extent of the smallest box around both."""
        return self._keep("hull", _hull_extent)

    @property
    def size(self) -> Tensor:
        """Width and height of the prediction."""
        return self._keep("size", lambda pair: pair.high - pair.low)

    @property
    def target_size(self) -> Tensor:
        """Width and height of the target."""
        return self._keep("target_size", lambda pair: pair.target_high - pair.target_low)

    @property
    def offset(self) -> Tensor:
        """Centre of the prediction minus centre of the target."""
        return self._keep("offset", _center_offset)

    @property
    def difference(self) -> Tensor:
        """Prediction minus target (4, n), coordinate by coordinate."""
        return self._keep(
            "difference", lambda pair: torch.cat([pair.low - pair.target_low, pair.high - pair.target_high])
        )

    @property
    def intersection(self) -> Tensor:
        """Area that both boxes cover."""
        return self._keep("intersection", lambda pair: _product(pair._plain("inner")))

    @property
    def area(self) -> Tensor:
        """Area of the prediction, positive also where both of its sides are inverted."""
        return self._keep("area", lambda pair: _product(pair._plain("size")))

    @property
    def target_area(self) -> Tensor:
        """Area of the target, in the same way."""
        return self._keep("target_area", lambda pair: _product(pair._plain("target_size")))

    @property
    def hull_area(self) -> Tensor:
        """Area of the smallest box around both."""
        return self._keep("hull_area", lambda pair: _product(pair._plain("hull")))

    @property
    def squared_diagonal(self) -> Tensor:
        """Squared diagonal of the smallest box around both."""
        return self._keep("squared_diagonal", lambda pair: _squared_length(pair._plain("hull")))

    @property
    def squared_distance(self) -> Tensor:
        """Squared distance of the centres."""
        return self._keep("squared_distance", lambda pair: _squared_length(pair._plain("offset")))

    def _keep(self, name: str, compute: Callable[["PairGeometry"], Tensor]) -> Tensor:
        if name not in self.known:
            value = compute(self)
            self.known[name] = value.requires_grad_() if name in self.leaves else value
        return self.known[name]

    def _plain(self, name: str) -> Tensor:
        """Return an extent, cut off where it is a leaf: `_to_extents` knows the way from there."""
        extent: Tensor = getattr(self, name)
        return extent.detach() if name in self.leaves else extent


def _inner_extent(pair: PairGeometry) -> Tensor:
    return torch.minimum(pair.high, pair.target_high).sub_(torch.maximum(pair.low, pair.target_low)).relu_()


def _hull_extent(pair: PairGeometry) -> Tensor:
    return torch.maximum(pair.high, pair.target_high).sub_(torch.minimum(pair.low, pair.target_low))


def _center_offset(pair: PairGeometry) -> Tensor:
    # not the difference of two centres, which loses digits far from the origin
    return (pair.low - pair.target_low).add_(pair.high - pair.target_high).mul_(0.5)


def _product(extent: Tensor) -> Tensor:
    width, height = extent
    return width * height


def _squared_length(extent: Tensor) -> Tensor:
    width, height = extent.square()
    return width + height


def _product_slope(extent: Tensor) -> Tensor:
    return extent.flip(0)


def _squared_length_slope(extent: Tensor) -> Tensor:
    return 2 * extent


# of each number per pair the extent that it depends on, and its slope by that
QUANTITIES: Final = {
    "intersection": ("inner", _product_slope),
    "area": ("size", _product_slope),
    "target_area": ("target_size", _product_slope),
    "hull_area": ("hull", _product_slope),
    "squared_diagonal": ("hull", _squared_length_slope),
    "squared_distance": ("offset", _squared_length_slope),
}
