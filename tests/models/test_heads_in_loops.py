"""GFL's, GFLv2's and TOOD's heads cell by cell, from the definitions in the golden data's README, in other shapes."""

import math

import pytest
import torch
from torch import Tensor, nn

from boxwright.boxes import DistanceCoder, IntegralCoder, PointGenerator
from boxwright.models.heads import GFLHead, TOODHead
from boxwright.models.heads.quality import DistributionQuality

SIZES = [[(5, 7), (3, 4), (2, 2)], [(1, 1)], [(4, 1), (2, 1)], [(1, 6), (1, 3)]]


def conv(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Multiply and add at every place of (C, H, W), zeros outside."""
    reach = layer.kernel_size[0] // 2
    padded = nn.functional.pad(x, [reach] * 4)
    out = torch.empty(layer.out_channels, *x.shape[1:], dtype=x.dtype)
    for row in range(x.shape[1]):
        for column in range(x.shape[2]):
            patch = padded[:, row : row + 2 * reach + 1, column : column + 2 * reach + 1]
            out[:, row, column] = (layer.weight * patch).sum((1, 2, 3))
    return out if layer.bias is None else out + layer.bias[:, None, None]


def group_norm(layer: nn.GroupNorm, x: Tensor) -> Tensor:
    groups = x.reshape(layer.num_groups, -1)
    spread = groups.var(1, unbiased=False, keepdim=True)
    normal = ((groups - groups.mean(1, keepdim=True)) / (spread + layer.eps).sqrt()).reshape(x.shape)
    return normal * layer.weight[:, None, None] + layer.bias[:, None, None]


def block(layers: nn.Sequential, x: Tensor) -> Tensor:
    return group_norm(layers[1], conv(layers[0], x)).clamp(min=0)


def gfl_level(head: GFLHead, feature: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (H · W, C) and distances in strides (H · W, 4) of one image and level."""
    classes = boxes = feature
    for of_class, of_box in zip(head.class_tower, head.box_tower, strict=True):
        classes, boxes = block(of_class, classes), block(of_box, boxes)
    score, raw = conv(head.class_logits, classes).sigmoid(), conv(head.distribution, boxes) * scale
    distances = torch.empty(4, *feature.shape[1:], dtype=feature.dtype)
    statistics = []
    for side, logits in enumerate(raw.chunk(4)):
        probability = logits.exp() / logits.exp().sum(0)
        distances[side] = sum(bin * share for bin, share in enumerate(probability))
        if head.quality is not None:
            top = [*probability.sort(0, descending=True).values[: head.quality.topk]]
            statistics += [*top, sum(top) / len(top)] if head.quality.mean else top
    if head.quality is not None:
        first, _, last = head.quality.layers
        score = score * conv(last, conv(first, torch.stack(statistics)).clamp(min=0)).sigmoid()
    return score.flatten(1).T, distances.flatten(1).T


def tood_level(head: TOODHead, feature: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (H · W, C) and x1, y1, x2, y2 in strides (H · W, 4) of one image and level."""
    stack = []
    for layers in head.stack:
        stack.append(block(layers, stack[-1] if stack else feature))
    everything = torch.cat(stack)
    mean = everything.mean((1, 2), keepdim=True)

    def decomposed(task: nn.Module) -> Tensor:
        weights = conv(task.attention[2], conv(task.attention[0], mean).clamp(min=0)).sigmoid()
        return block(task.mix, torch.cat([weight * layer for weight, layer in zip(weights, stack, strict=True)]))

    probability = conv(head.probability[2], conv(head.probability[0], everything).clamp(min=0))
    classes = conv(head.class_logits, decomposed(head.class_features))
    score = (classes.sigmoid() * probability.sigmoid()).sqrt()
    raw = conv(head.box_params, decomposed(head.box_features)) * (1 if head.anchor_scale is None else scale)
    height, width = feature.shape[1:]
    boxes = torch.empty_like(raw)
    for y in range(height):
        for x in range(width):
            boxes[:, y, x] = decoded(raw[:, y, x], x + head.offset, y + head.offset, head.anchor_scale, scale)
    offsets = conv(head.offsets[2], conv(head.offsets[0], everything).clamp(min=0))
    moved = torch.zeros_like(boxes)
    for side in range(4):
        for y in range(height):
            for x in range(width):
                moved[side, y, x] = bilinear(
                    boxes[side], y + float(offsets[2 * side, y, x]), x + float(offsets[2 * side + 1, y, x])
                )
    return score.flatten(1).T, moved.flatten(1).T


def decoded(raw: Tensor, x: float, y: float, anchor: float | None, scale: Tensor) -> Tensor:
    center = torch.tensor([x, y], dtype=raw.dtype)
    if anchor is None:
        distances = scale * raw.exp()
        return torch.cat([center - distances[:2], center + distances[2:]])
    center = center + 0.1 * raw[:2] * anchor
    half = anchor * (0.2 * raw[2:]).exp() / 2
    return torch.cat([center - half, center + half])


def bilinear(values: Tensor, y: float, x: float) -> Tensor:
    total = values.new_zeros(())
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < values.shape[0] and 0 <= column < values.shape[1]:
                total += values[row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


def shaken(head: nn.Module, spread: float) -> nn.Module:
    """Weights that a training might leave, in float64."""
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return head.double().eval()


def check(head: nn.Module, level_of, sizes, coder, channels: int, in_strides: bool) -> None:
    features = [torch.randn(2, channels, *size, dtype=torch.float64) for size in sizes]
    strides = [8.0 * 2**level for level in range(len(sizes))]
    with torch.no_grad():
        predictions = head([feature.clone() for feature in features])
        priors = PointGenerator(tuple(strides), getattr(head, "offset", 0.5))(sizes)
        boxes = coder.decode(priors, predictions.params)
        for image in range(2):
            start = 0
            for feature, scale, stride in zip(features, head.scales, strides, strict=True):
                scores, expected = level_of(head, feature[image], scale)
                rows = slice(start, start + len(scores))
                if in_strides:
                    expected = expected * stride
                else:
                    center = priors.centers[rows]
                    low, high = (expected * stride).split(2, dim=1)
                    expected = torch.cat([center - low, center + high], dim=1)
                torch.testing.assert_close(
                    predictions.logits[image, rows].sigmoid().double(), scores, rtol=1e-4, atol=1e-6
                )
                torch.testing.assert_close(boxes[image, rows].double(), expected.double(), rtol=1e-4, atol=1e-3)
                start = rows.stop


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(
    ("channels", "width", "convs", "classes", "reg_max", "quality"),
    [
        (6, 12, 2, 1, 4, None),
        (16, 32, 1, 5, 11, None),
        (8, 24, 3, 2, 3, (4, True)),
        (5, 40, 1, 3, 16, (1, False)),
        (7, 8, 2, 1, 8, (9, True)),
    ],
)
def test_gfl(sizes, channels, width, convs, classes, reg_max, quality):
    torch.manual_seed(channels)
    head = GFLHead([channels] * len(sizes), classes, convs=convs, channels=width, reg_max=reg_max)
    if quality is not None:
        head.quality = DistributionQuality(reg_max, *quality, hidden=6)
    check(shaken(head, 0.3), gfl_level, sizes, IntegralCoder(reg_max), channels, in_strides=False)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(
    ("channels", "width", "convs", "classes", "anchor", "offset"),
    [(6, 12, 1, 1, None, 0.0), (16, 32, 2, 5, None, 0.5), (8, 24, 4, 2, 4.0, 0.0), (5, 8, 3, 3, 8.0, 0.5)],
)
def test_tood(sizes, channels, width, convs, classes, anchor, offset):
    torch.manual_seed(channels)
    head = TOODHead([channels] * len(sizes), classes, convs=convs, channels=width, anchor_scale=anchor, offset=offset)
    check(shaken(head, 0.15), tood_level, sizes, DistanceCoder(), channels, in_strides=True)


def test_a_distribution_has_as_many_bins_as_are_read():
    with pytest.raises(ValueError, match=r"topk=4 .* only 3 bins: reg_max must be at least 3"):
        GFLHead([8], 2, reg_max=2, quality=True)
