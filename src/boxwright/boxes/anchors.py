"""Anchor boxes on the grids of a feature pyramid."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import torch
from torch import Tensor

from boxwright.counts import counted
from boxwright.structures import Level, Priors
from boxwright.tables import kept

__all__ = ["AnchorGenerator"]

Shape = tuple[float, float]

_HOST: Final[Any] = {"dtype": torch.float32, "device": "cpu"}  # whatever torch's defaults are


@dataclass(frozen=True, slots=True)
class AnchorGenerator:
    """Anchors of given widths and heights around the centre of every cell; called with the feature sizes.

    The centre of cell (y, x) is `((x + offset) · stride, (y + offset) · stride)`: offset 0 for mmdetection's and
    torchvision's corner-centred anchors, 0.5 for the middle of the cell. The named constructors compute the shapes of
    published systems.

    >>> AnchorGenerator.square((8,), scale=2, offset=0.5)([(1, 2)]).boxes
    tensor([[-4., -4., 12., 12.],
            [ 4., -4., 20., 12.]])

    Attributes:
        strides: pixels per cell, one per level, in the order of the features.
        shapes: for each level the (width, height) in pixels of its anchors, in order.
        offset: where in its cell an anchor's centre lies, as a share of the stride.
        clip: (height, width) of the image if centres and sizes are clamped to it, as in SSD; None leaves them. The grid
            of `Level` describes the centres before this clamp.

    Raises:
        ValueError: `shapes` and `strides` name a different number of levels.
    """

    strides: tuple[float, ...]
    shapes: tuple[tuple[Shape, ...], ...]
    offset: float = 0.5
    clip: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if len(self.strides) != len(self.shapes):
            raise ValueError(
                f"shapes must name one tuple per level: {len(self.strides)} strides, {len(self.shapes)} shapes"
            )

    def __call__(self, sizes: Sequence[tuple[int, int]], device: torch.device | str = "cpu") -> Priors:
        """Return the priors of feature maps of the given (height, width), float32; kept for later calls, so not to be
        changed in place.

        Raises:
            ValueError: the number of sizes is not the number of levels.
        """
        if len(sizes) != len(self.strides):
            raise ValueError(f"expected {len(self.strides)} feature sizes (one per stride), got {len(sizes)}")
        levels = tuple(
            Level(int(height), int(width), len(shapes), float(stride), self.offset)
            for (height, width), shapes, stride in zip(sizes, self.shapes, self.strides, strict=True)
        )
        return _priors(levels, _frozen(self.shapes), self.clip, torch.device(device))

    @property
    def per_cell(self) -> tuple[int, ...]:
        """Number of anchors per cell, one per level."""
        return tuple(len(shapes) for shapes in self.shapes)

    @classmethod
    def retinanet(
        cls,
        strides: Sequence[float],
        octave_base: float = 4.0,
        scales_per_octave: int = 3,
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
        offset: float = 0.0,
    ) -> Self:
        """Sides `octave_base · 2^(i/n) · stride` for each ratio height/width. Lin et al. 2017, arXiv 1708.02002."""
        octaves = [octave_base * 2 ** (i / scales_per_octave) for i in range(scales_per_octave)]
        shapes = ([_shape(stride * scale, ratio) for ratio in ratios for scale in octaves] for stride in strides)
        return cls(_floats(strides), _frozen(shapes), offset)

    @classmethod
    def square(cls, strides: Sequence[float], scale: float = 8.0, offset: float = 0.0) -> Self:
        """One square of side `scale · stride` per cell. Zhang et al. 2020, arXiv 1912.02424."""
        return cls(_floats(strides), _frozen([(scale * stride, scale * stride)] for stride in strides), offset)

    @classmethod
    def rcnn(
        cls,
        strides: Sequence[float] = (16,),
        scales: Sequence[float] = (8, 16, 32),
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
    ) -> Self:
        """The first Faster R-CNN's anchors: sides rounded to whole pixels at one stride, then scaled, cell-centred.

        Ren et al. 2015, arXiv 1506.01497, whose boxes end at their last pixel: `(x1, y1, x2 - 1, y2 - 1)` of these.
        """
        shapes = []
        for stride in strides:
            widths = [(round(math.sqrt(stride**2 / ratio)), ratio) for ratio in ratios]
            shapes.append([(w * scale, round(w * ratio) * scale) for w, ratio in widths for scale in scales])
        return cls(_floats(strides), _frozen(shapes))

    @classmethod
    def ssd(
        cls,
        strides: Sequence[float],
        min_sizes: Sequence[float],
        max_sizes: Sequence[float],
        ratios: Sequence[Sequence[float]],
        steps: Sequence[float] | None = None,
        clip: tuple[int, int] | None = None,
    ) -> Self:
        """SSD's default boxes. Liu et al. 2016, arXiv 1512.02325.

        Per level the square `min`, the square `√(min·max)`, then for each ratio r the boxes `min·√r × min/√r` and
        `min/√r × min·√r`.

        Args:
            strides: pixels per cell of each level of the network.
            min_sizes: of each level, pixels.
            max_sizes: of each level, pixels; as a rule the next level's `min`.
            ratios: of each level, its long side / short side.
            steps: pixels between the centres of a level where they are not its stride, as on levels whose convolutions
                lose the border: SSD spreads the centres over the image.
            clip: see the class.

        Raises:
            ValueError: the lists are not of one length.
        """
        lengths = [len(strides), len(min_sizes), len(max_sizes), len(ratios), len(strides if steps is None else steps)]
        if len(set(lengths)) != 1:
            raise ValueError(
                f"the network has {counted(lengths[0], 'level')}, but min_sizes, max_sizes, ratios and steps name "
                f"{lengths[1:]}"
            )
        shapes = []
        for small, large, level_ratios in zip(min_sizes, max_sizes, ratios, strict=True):
            extra = math.sqrt(small * large)
            pairs = [_shape(small, turned) for ratio in level_ratios for turned in (1 / ratio, ratio)]
            shapes.append([(small, small), (extra, extra), *pairs])
        return cls(_floats(strides if steps is None else steps), _frozen(shapes), clip=clip)

    @classmethod
    def torchvision(
        cls, strides: Sequence[float], sizes: Sequence[Sequence[float]], ratios: Sequence[float] = (0.5, 1.0, 2.0)
    ) -> Self:
        """torchvision's anchors: for each ratio all sizes, half sides rounded to whole pixels, corner-centred."""
        shapes = (
            [(2.0 * round(w / 2), 2.0 * round(h / 2)) for ratio in ratios for w, h in (_shape(s, ratio) for s in level)]
            for level in sizes
        )
        return cls(_floats(strides), _frozen(shapes), offset=0.0)


def _shape(side: float, ratio: float) -> Shape:
    """Return (width, height) of area side² with height / width = ratio."""
    return side / math.sqrt(ratio), side * math.sqrt(ratio)


def _floats(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _frozen(shapes: Iterable[Iterable[Shape]]) -> tuple[tuple[Shape, ...], ...]:
    return tuple(tuple((float(width), float(height)) for width, height in level) for level in shapes)


@kept  # copied to the device once, not at every step
def _priors(
    levels: tuple[Level, ...],
    shapes: tuple[tuple[Shape, ...], ...],
    clip: tuple[int, int] | None,
    device: torch.device,
) -> Priors:
    with torch.inference_mode(False):  # a later training step uses the same tensors
        center, size = torch.cat([_level(*pair) for pair in zip(levels, shapes, strict=True)]).split(2, dim=-1)
        if clip is not None:
            limit = torch.tensor(clip[::-1], **_HOST)
            center, size = center.minimum(limit), size.minimum(limit)
        boxes = torch.cat([center - size / 2, center + size / 2], dim=-1)
        strides = torch.cat([torch.full((level.size,), level.stride, **_HOST) for level in levels])
        return Priors(boxes, center.contiguous(), strides, levels).to(device, non_blocking=True)


def _level(level: Level, shapes: Sequence[Shape]) -> Tensor:
    """Return centre and size (height · width · per_cell, 4) of one level's anchors."""
    y = (torch.arange(level.height, **_HOST) + level.offset) * level.stride
    x = (torch.arange(level.width, **_HOST) + level.offset) * level.stride
    center = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)  # (H, W, 2)
    grid = (level.height, level.width, len(shapes), 2)
    sizes = torch.tensor(shapes, **_HOST).reshape(-1, 2)
    anchors = torch.cat([center.unsqueeze(2).expand(grid), sizes.expand(grid)], dim=-1)
    return anchors.reshape(-1, 4)
