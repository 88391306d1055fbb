"""The published networks as `.cfg` texts, for any classes, anchors and image size, and narrower or shallower."""

from collections.abc import Callable, Sequence
from typing import Final

__all__ = ["LAYOUTS", "anchors_of", "layout"]

Anchors = Sequence[tuple[float, float]]

# width, height in pixels at 416 px, fitted to COCO by their authors (YOLOv2's are published in cells of 32 pixels)
_YOLOV2: Final = [(18.327, 21.676), (59.983, 66.001), (106.83, 175.179), (252.25, 112.889), (312.657, 293.385)]
_YOLOV3: Final = [(10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326)]
_YOLOV3_TINY: Final = [(10, 14), (23, 27), (37, 58), (81, 82), (135, 169), (344, 319)]


class _Writer:
    """Collects sections; knows how wide and deep the network is to be, and what it detects."""

    def __init__(self, classes: int, anchors: Anchors, size: int, width: float, depth: float) -> None:
        self.classes, self.anchors, self.width, self.depth = classes, anchors, width, depth
        self.lines = [f"[net]\nheight={size}\nwidth={size}\nchannels=3\n"]

    def section(self, name: str, **options: object) -> None:
        self.lines.append(f"[{name}]\n" + "".join(f"{key.rstrip('_')}={value}\n" for key, value in options.items()))

    def conv(self, filters: int, size: int = 3, stride: int = 1) -> None:
        filters = max(8, round(filters * self.width / 8) * 8)
        self.section(
            "convolutional", batch_normalize=1, filters=filters, size=size, stride=stride, pad=1, activation="leaky"
        )

    def alternate(self, filters: int, count: int) -> None:
        """Convolutions of 3×3 that look around, in turn with 1×1 of half the filters that sum up."""
        for index in range(count):
            self.conv(filters // (1 + index % 2), 1 if index % 2 else 3)

    def pool(self, size: int = 2, stride: int = 2) -> None:
        self.section("maxpool", size=size, stride=stride)

    def route(self, *layers: int) -> None:
        self.section("route", layers=",".join(map(str, layers)))

    def output(self, anchors: int) -> None:
        self.section(
            "convolutional", filters=anchors * (5 + self.classes), size=1, stride=1, pad=1, activation="linear"
        )

    def region(self) -> None:
        self.output(len(self.anchors))
        cells = ", ".join(f"{side / 32:.6g}" for anchor in self.anchors for side in anchor)
        self.section(
            "region", anchors=cells, num=len(self.anchors), classes=self.classes, coords=4, softmax=1, bias_match=1,
            rescore=1, object_scale=5, noobject_scale=1, class_scale=1, coord_scale=1, thresh=0.6,
        )  # fmt: skip

    def yolo(self, scale: int, scales: int) -> None:
        """Detect on one of several scales, of which 0 has the smallest anchors."""
        count = len(self.anchors) // scales
        self.output(count)
        pixels = ", ".join(f"{side:.6g}" for anchor in self.anchors for side in anchor)
        mask = ",".join(str(scale * count + index) for index in range(count))
        self.section(
            "yolo", mask=mask, anchors=pixels, num=len(self.anchors), classes=self.classes, ignore_thresh=0.7,
            truth_thresh=1,
        )  # fmt: skip


def _yolov2(net: _Writer) -> None:
    """Darknet-19 without its classifier, with the passthrough from stride 16 (arXiv 1612.08242)."""
    for filters, count in ((32, 1), (64, 1), (128, 3), (256, 3), (512, 5)):
        net.alternate(filters, count)
        net.pool()
    net.alternate(1024, 5)
    net.conv(1024)
    net.conv(1024)
    net.route(-9)
    net.conv(64, 1)
    net.section("reorg", stride=2)
    net.route(-1, -4)
    net.conv(1024)
    net.region()


def _yolov2_tiny(net: _Writer) -> None:
    for filters in (16, 32, 64, 128, 256):
        net.conv(filters)
        net.pool()
    net.conv(512)
    net.pool(2, 1)
    net.conv(1024)
    net.conv(512)
    net.region()


def _darknet53(net: _Writer) -> tuple[int, int]:
    """Residual blocks at strides 2 to 32 (arXiv 1804.02767); return the last layers at strides 8 and 16."""
    net.conv(32)
    ends = []
    for filters, repeats in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
        net.conv(filters, stride=2)
        for _ in range(max(1, round(repeats * net.depth))):
            net.conv(filters // 2, 1)
            net.conv(filters)
            net.section("shortcut", from_=-3, activation="linear")
        ends.append(len(net.lines) - 2)  # [net] is not a layer
    return ends[2], ends[3]


def _yolov3(net: _Writer, spp: bool = False) -> None:
    """Three scales on Darknet-53, each with what the coarser one has found."""
    fine, middle = _darknet53(net)
    net.conv(512, 1)
    net.conv(1024)
    net.conv(512, 1)
    if spp:  # the features beside their maxima over three windows
        net.pool(5, 1)
        net.route(-2)
        net.pool(9, 1)
        net.route(-4)
        net.pool(13, 1)
        net.route(-1, -3, -5, -6)
        net.conv(512, 1)
    net.conv(1024)
    net.conv(512, 1)
    net.conv(1024)
    net.yolo(2, 3)
    for scale, lateral, filters in ((1, middle, 256), (0, fine, 128)):
        net.route(-4)
        net.conv(filters, 1)
        net.section("upsample", stride=2)
        net.route(-1, lateral)
        for _ in range(3):
            net.conv(filters, 1)
            net.conv(2 * filters)
        net.yolo(scale, 3)


def _yolov3_spp(net: _Writer) -> None:
    _yolov3(net, spp=True)


def _yolov3_tiny(net: _Writer) -> None:
    for filters in (16, 32, 64, 128):
        net.conv(filters)
        net.pool()
    net.conv(256)
    lateral = len(net.lines) - 2
    net.pool()
    net.conv(512)
    net.pool(2, 1)
    net.conv(1024)
    net.conv(256, 1)
    net.conv(512)
    net.yolo(1, 2)
    net.route(-4)
    net.conv(128, 1)
    net.section("upsample", stride=2)
    net.route(-1, lateral)
    net.conv(256)
    net.yolo(0, 2)


# network, anchors that were published with it, number of scales
LAYOUTS: Final[dict[str, tuple[Callable[[_Writer], None], Anchors, int]]] = {
    "yolov2": (_yolov2, _YOLOV2, 1),
    "yolov2-tiny": (_yolov2_tiny, _YOLOV2, 1),
    "yolov3": (_yolov3, _YOLOV3, 3),
    "yolov3-spp": (_yolov3_spp, _YOLOV3, 3),
    "yolov3-tiny": (_yolov3_tiny, _YOLOV3_TINY, 2),
}


def anchors_of(name: str) -> list[tuple[float, float]]:
    """Return the (width, height) in pixels of the anchors published with a layout."""
    return [(float(width), float(height)) for width, height in LAYOUTS[name][1]]


def layout(
    name: str,
    *,
    classes: int = 80,
    anchors: Anchors | None = None,
    size: int = 416,
    width: float = 1.0,
    depth: float = 1.0,
) -> str:
    """Write a network of Redmon and Farhadi (arXiv 1612.08242, 1804.02767) as the text of a `.cfg`.

    With the defaults and the published number of classes, the weight files of its authors fit it byte for byte.

    Args:
        name: yolov2, yolov2-tiny, yolov3, yolov3-spp or yolov3-tiny.
        classes: number of classes.
        anchors: (width, height) in pixels, by area; by default those published.
        size: side of the images in pixels, a multiple of 32.
        width: factor of the number of filters.
        depth: factor of the residual blocks of Darknet-53.

    Raises:
        ValueError: the layout is unknown, the anchors do not divide by its scales, or the size by 32.
    """
    if name not in LAYOUTS:
        raise ValueError(f"unknown layout {name!r}; known: {', '.join(LAYOUTS)}")
    write, published, scales = LAYOUTS[name]
    anchors = published if anchors is None else anchors
    if not anchors or len(anchors) % scales:
        raise ValueError(f"anchors: {name} detects on {scales} scales, which {len(anchors)} anchors do not divide by")
    if size % 32:
        raise ValueError(f"size must be a multiple of 32, got {size}")
    net = _Writer(classes, anchors, size, width, depth)
    write(net)
    return "\n".join(net.lines)
