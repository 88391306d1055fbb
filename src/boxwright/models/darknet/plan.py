"""From sections to layers: which module each section is, what it reads, and what shape comes out."""

from collections.abc import Sequence
from typing import Final, Literal

from torch import nn

from boxwright.counts import counted
from boxwright.models.darknet.config import CfgSection
from boxwright.models.darknet.layers import (
    ACTIVATIONS,
    Convolution,
    GlobalAverage,
    MaxPool,
    Reorg,
    Route,
    Shortcut,
    Softmax,
    Upsample,
)
from boxwright.models.darknet.shapes import DetectionLayer, Layer, Shape

__all__ = ["plan_layers"]

LARGEST_NETWORK: Final = 1 << 31  # parameters; the largest published has a few hundred million
LARGEST_SIDE: Final = 1 << 14
# what may stand in a section; most of it concerns darknet's own training
NET_KEYS: Final = {
    *("batch", "subdivisions", "width", "height", "channels", "inputs", "momentum", "decay", "angle", "aspect"),
    *("saturation", "exposure", "hue", "learning_rate", "burn_in", "max_batches", "policy", "steps", "scales", "step"),
    *("scale", "gamma", "power", "max_crop", "min_crop", "random", "adam", "B1", "B2", "eps"),
}
REGION_KEYS: Final = {
    *("anchors", "num", "classes", "coords", "softmax", "bias_match", "rescore", "jitter", "thresh", "random"),
    *("absolute", "object_scale", "noobject_scale", "class_scale", "coord_scale"),
}
YOLO_KEYS: Final = {
    *("mask", "anchors", "num", "classes", "jitter", "ignore_thresh", "truth_thresh", "random", "max"),
}


def plan_layers(sections: Sequence[CfgSection]) -> list[Layer]:
    """Turn the sections of a `.cfg` into layers; modules are made on torch's current default device.

    Raises:
        RecipeError: a section or key is unknown, a value is out of bounds, or shapes do not fit; names the line.
    """
    net, *rest = sections
    if net.name not in ("net", "network"):
        raise net.error("the first section must be [net]")
    net.only(NET_KEYS)
    image = Shape(
        net.integer("channels", 3, least=1),
        net.integer("height", least=1, most=LARGEST_SIDE),
        net.integer("width", least=1, most=LARGEST_SIDE),
    )
    if not rest:
        raise net.error("no layer follows")
    plan = _Plan(image)
    for section in rest:
        plan.add(section)
    return plan.layers


class _Plan:
    def __init__(self, image: Shape) -> None:
        self.image = image
        self.layers: list[Layer] = []
        self.parameters = 0

    def add(self, section: CfgSection) -> None:
        read = getattr(self, f"_{section.name}", None) if section.name in _KNOWN else None
        if read is None:
            raise section.error(f"unknown section; known: {', '.join(sorted(_KNOWN))}")
        layer: Layer = read(section)
        if min(layer.shape) < 1:
            raise section.error(f"nothing is left of an input of {self._shape(layer.sources[0])}: {layer.shape}")
        if layer.shape.channels > 1 << 20:
            raise section.error(f"{layer.shape.channels} channels are more than any network has")
        if layer.detection is None:
            for source in layer.sources:
                if source >= 0 and self.layers[source].detection is not None:
                    raise section.error(
                        f"reads layer {source}, a detection layer; nothing may follow one but a [route]"
                    )
        self.layers.append(layer)

    def _shape(self, source: int) -> Shape:
        return self.image if source < 0 else self.layers[source].shape

    @property
    def _last(self) -> int:
        return len(self.layers) - 1

    def _sources(self, section: CfgSection, key: str) -> tuple[int, ...]:
        """Indices of earlier layers; negative ones count back from this layer."""
        here = len(self.layers)
        sources = tuple(number + here if number < 0 else number for number in section.integers(key))
        for source in sources:
            if not 0 <= source < here:
                raise section.error(f"{key} names layer {source}, but only 0..{here - 1} stand before this one", key)
        return sources

    def _activation(self, section: CfgSection, default: str) -> str:
        name = section.text("activation", default)
        if name not in ACTIVATIONS:
            raise section.error(f"unknown activation {name!r}; known: {', '.join(ACTIVATIONS)}", "activation")
        return name

    def _convolutional(self, section: CfgSection) -> Layer:
        section.only({"batch_normalize", "filters", "size", "stride", "pad", "padding", "groups", "activation"})
        channels, height, width = self._shape(self._last)
        filters = section.integer("filters", 1, least=1)
        size = section.integer("size", 1, least=1, most=1024)
        stride = section.integer("stride", 1, least=1, most=1024)
        padding = size // 2 if section.integer("pad", 0) else section.integer("padding", 0, most=1024)
        groups = section.integer("groups", 1, least=1)
        if channels % groups or filters % groups:
            raise section.error(
                f"groups = {groups} must divide {channels} input channels and {filters} filters", "groups"
            )
        self.parameters += filters * (channels // groups) * size * size + 4 * filters
        if self.parameters > LARGEST_NETWORK:
            raise section.error(f"the network has more than {LARGEST_NETWORK} parameters up to here")
        shape = Shape(filters, *((side + 2 * padding - size) // stride + 1 for side in (height, width)))
        normalize = bool(section.integer("batch_normalize", 0))
        activation = self._activation(section, "logistic")
        module = Convolution(channels, filters, size, stride, padding, groups, normalize, activation)
        return Layer(module, (self._last,), shape)

    def _maxpool(self, section: CfgSection) -> Layer:
        section.only({"size", "stride", "padding"})
        channels, height, width = self._shape(self._last)
        stride = section.integer("stride", 1, least=1, most=1024)
        size = section.integer("size", stride, least=1, most=1024)
        padding = section.integer("padding", size - 1)
        if padding >= size:
            raise section.error(f"padding = {padding} must be below size = {size}", "padding")
        shape = Shape(channels, *((side + padding - size) // stride + 1 for side in (height, width)))
        return Layer(MaxPool(size, stride, padding), (self._last,), shape)

    def _avgpool(self, section: CfgSection) -> Layer:
        section.only(())
        return Layer(GlobalAverage(), (self._last,), Shape(self._shape(self._last).channels, 1, 1))

    def _route(self, section: CfgSection) -> Layer:
        section.only({"layers", "groups", "group_id"})
        sources = self._sources(section, "layers")
        shapes = [self._shape(source) for source in sources]
        if len({shape[1:] for shape in shapes}) > 1:
            found = ", ".join(f"{source}: {shape}" for source, shape in zip(sources, shapes, strict=True))
            raise section.error(f"layers of different sizes cannot be joined ({found})", "layers")
        groups = section.integer("groups", 1, least=1)
        group = section.integer("group_id", 0)
        if group >= groups:
            raise section.error(f"group_id = {group} must be below groups = {groups}", "group_id")
        if any(shape.channels % groups for shape in shapes):
            raise section.error(f"groups = {groups} must divide the channels {[s.channels for s in shapes]}", "groups")
        channels = sum(shape.channels for shape in shapes) // groups
        return Layer(Route(groups, group), sources, Shape(channels, *shapes[0][1:]))

    def _shortcut(self, section: CfgSection) -> Layer:
        section.only({"from", "activation"})
        earlier = self._sources(section, "from")
        if len(earlier) != 1:
            raise section.error(f"from must name one layer, found {len(earlier)}", "from")
        shape, other = self._shape(self._last), self._shape(earlier[0])
        if shape != other:
            raise section.error(f"adds {shape} and {other} of layer {earlier[0]}, which differ", "from")
        return Layer(Shortcut(self._activation(section, "linear")), (self._last, *earlier), shape)

    def _reorg(self, section: CfgSection) -> Layer:
        section.only({"stride", "reverse"})
        stride = section.integer("stride", 1, least=1, most=1024)
        reverse = bool(section.integer("reverse", 0))
        shape = self._shape(self._last)
        channels, height, width = shape
        if channels % stride**2:
            raise section.error(f"stride² = {stride**2} must divide the {channels} channels of its input")
        if reverse:
            after = Shape(channels // stride**2, height * stride, width * stride)
        else:
            if height % stride or width % stride:
                raise section.error(f"stride = {stride} must divide its input of {shape}")
            after = Shape(channels * stride**2, height // stride, width // stride)
        return Layer(Reorg(stride, reverse), (self._last,), self._small(section, after))

    def _upsample(self, section: CfgSection) -> Layer:
        section.only({"stride", "scale"})
        stride = section.integer("stride", 2, least=1, most=1024)
        channels, height, width = self._shape(self._last)
        shape = self._small(section, Shape(channels, height * stride, width * stride))
        return Layer(Upsample(stride, section.number("scale", 1.0)), (self._last,), shape)

    def _small(self, section: CfgSection, shape: Shape) -> Shape:
        if max(shape.height, shape.width) > LARGEST_SIDE:
            raise section.error(f"gives {shape}, a side above {LARGEST_SIDE}")
        return shape

    def _softmax(self, section: CfgSection) -> Layer:
        section.only({"groups", "temperature"})
        shape = self._shape(self._last)
        groups = section.integer("groups", 1, least=1)
        if shape.channels * shape.height * shape.width % groups:
            raise section.error(f"groups = {groups} must divide its input of {shape}", "groups")
        temperature = section.number("temperature", 1.0, least=1e-6)
        return Layer(Softmax(groups, temperature), (self._last,), shape)

    def _cost(self, section: CfgSection) -> Layer:
        section.only({"type", "scale", "ratio"})
        return Layer(nn.Identity(), (self._last,), self._shape(self._last))

    def _region(self, section: CfgSection) -> Layer:
        section.only(REGION_KEYS)
        if section.integer("coords", 4) != 4:
            raise section.error("only boxes of coords = 4 are known", "coords")
        stride = self._stride(section)
        anchors = [(stride * width, stride * height) for width, height in self._anchors(section, "0.5,0.5")]
        softmax = bool(section.integer("softmax", 0))
        return self._detection(section, "region", anchors, list(range(len(anchors))), softmax, stride)

    def _yolo(self, section: CfgSection) -> Layer:
        section.only(YOLO_KEYS)
        anchors = self._anchors(section, "")
        mask = section.integers("mask", range(len(anchors)))
        if any(not 0 <= index < len(anchors) for index in mask) or len(set(mask)) != len(mask):
            raise section.error(f"mask must name some of the anchors 0..{len(anchors) - 1} once, found {mask}", "mask")
        return self._detection(section, "yolo", anchors, mask, False, self._stride(section))

    def _anchors(self, section: CfgSection, default: str) -> list[tuple[float, float]]:
        count = section.integer("num", 1, least=1, most=1024)
        sides = section.numbers("anchors", [float(side) for side in default.split(",")] * count if default else None)
        if len(sides) != 2 * count:
            raise section.error(f"num = {count} anchors need {2 * count} numbers, found {len(sides)}", "anchors")
        if min(sides) <= 0:
            raise section.error(f"anchors must be larger than 0, found {min(sides)}", "anchors")
        return list(zip(sides[::2], sides[1::2], strict=True))

    def _stride(self, section: CfgSection) -> int:
        shape = self._shape(self._last)
        stride, rest = divmod(self.image.width, shape.width)
        if rest or shape.height * stride != self.image.height:
            raise section.error(f"an image of {self.image} does not divide into cells of its input of {shape}")
        return stride

    def _detection(
        self,
        section: CfgSection,
        kind: Literal["region", "yolo"],
        anchors: Sequence[tuple[float, float]],
        mask: Sequence[int],
        softmax: bool,
        stride: int,
    ) -> Layer:
        classes = section.integer("classes", 20, least=1)
        shape, wanted = self._shape(self._last), len(mask) * (5 + classes)
        if shape.channels != wanted:
            raise section.error(
                f"{counted(len(mask), 'anchor')} with {counted(classes, 'class')} need {wanted} channels before this "
                f"layer, found {shape.channels}: set filters={wanted} there"
            )
        source = self._last
        if self.layers and self.layers[source].detection is not None:
            raise section.error(f"reads layer {source}, a detection layer")
        detection = DetectionLayer(kind, tuple(anchors), tuple(mask), classes, softmax, stride, section)
        return Layer(nn.Identity(), (source,), shape, detection)


_KNOWN: Final = {
    *("convolutional", "maxpool", "avgpool", "route", "shortcut", "reorg", "upsample", "softmax", "cost"),
    *("region", "yolo"),
}
