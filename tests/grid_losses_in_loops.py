"""The grid losses written a second time, prior by prior and object by object, from their definitions alone.

Outputs are (B, A, 5 + C, H, W) float64; objects are per image lists of (x, y, w, h, class), fractions of the image.
"""

import math
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

Object = tuple[float, float, float, float, int]
Objects = list[list[Object]]
PRIOR = (0.5, 0.5, 0.0, 0.0)


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """IoU of two boxes of centre and size."""
    sides = [
        max(0.0, min(a[k] + a[k + 2] / 2, b[k] + b[k + 2] / 2) - max(a[k] - a[k + 2] / 2, b[k] - b[k + 2] / 2))
        for k in (0, 1)
    ]
    inner = sides[0] * sides[1]
    return inner / (a[2] * a[3] + b[2] * b[3] - inner)


def shape_iou(size: tuple[float, float], other: tuple[float, float]) -> float:
    return iou((0, 0, *size), (0, 0, *other))


def first_best(values: list[float]) -> int:
    return max(range(len(values)), key=lambda n: (values[n], -n))


def cells(output: Tensor) -> list[tuple[int, ...]]:
    images, anchors, _, height, width = output.shape
    return list(product(range(images), range(anchors), range(height), range(width)))


def boxes_of(output: Tensor, anchors: list[tuple[float, float]]) -> dict[tuple[int, ...], tuple[float, ...]]:
    """Predicted boxes as fractions of the image; anchors as fractions, too."""
    height, width = output.shape[-2:]
    found = {}
    for b, a, j, i in cells(output):
        x, y, w, h = output[b, a, :4, j, i].tolist()
        found[b, a, j, i] = (
            (i + 1 / (1 + math.exp(-x))) / width,
            (j + 1 / (1 + math.exp(-y))) / height,
            math.exp(w) * anchors[a][0],
            math.exp(h) * anchors[a][1],
        )
    return found


def activated(output: Tensor, softmax: bool) -> Tensor:
    out = output.sigmoid()
    out[:, :, 2:4] = output[:, :, 2:4]
    if softmax:
        out[:, :, 5:] = output[:, :, 5:].softmax(2)
    return out


def box_target(obj: Object, at: tuple[int, ...], anchor: tuple[float, float], output: Tensor) -> Tensor:
    height, width = output.shape[-2:]
    x, y, w, h, _ = obj
    return torch.tensor([x * width - at[3], y * height - at[2], math.log(w / anchor[0]), math.log(h / anchor[1])])


def darknet_classes(delta: Tensor, out: Tensor, label: int, scale: float, several: bool) -> None:
    """Fill the class deltas (C,) of one slot in place."""
    if several and delta[0] != 0:
        delta[label] = scale * (1 - out[label])
    else:
        delta.copy_(scale * (F.one_hot(torch.tensor(label), len(out)) - out))


def region_delta(
    output: Tensor, objects: Objects, anchors: list[tuple[float, float]], *, seen: int, thresh: float,
    object_scale: float, noobject_scale: float, class_scale: float, coord_scale: float,
    rescore: bool, softmax: bool, bias_match: bool, warmup: int = 12800,
) -> Tensor:  # fmt: skip
    """darknet's region layer: its delta; anchors in cells."""
    height, width = output.shape[-2:]
    out, delta = activated(output, softmax), torch.zeros_like(output)
    shares = [(w / width, h / height) for w, h in anchors]
    boxes = boxes_of(output, shares)
    for at in cells(output):
        b, a, j, i = at
        best = max((iou(boxes[at], obj[:4]) for obj in objects[b]), default=0.0)
        delta[b, a, 4, j, i] = 0 if best > thresh else -noobject_scale * out[b, a, 4, j, i]
        if seen < warmup:
            delta[b, a, :4, j, i] = 0.01 * (torch.tensor(PRIOR) - out[b, a, :4, j, i])
    for b, image in enumerate(objects):
        for obj in image:
            i, j = int(obj[0] * width), int(obj[1] * height)
            sizes = shares if bias_match else [boxes[b, a, j, i][2:] for a in range(len(anchors))]
            a = first_best([shape_iou(obj[2:4], size) for size in sizes])
            at = (b, a, j, i)
            goal = 1.0 if not rescore else iou(boxes[at], obj[:4])
            error = box_target(obj, at, shares[a], output) - out[b, a, :4, j, i]
            delta[b, a, :4, j, i] = coord_scale * (2 - obj[2] * obj[3]) * error
            delta[b, a, 4, j, i] = object_scale * (goal - out[b, a, 4, j, i])
            darknet_classes(delta[b, a, 5:, j, i], out[b, a, 5:, j, i], obj[4], class_scale, several=not softmax)
    return delta


def yolo_delta(
    output: Tensor, objects: Objects, anchors: list[tuple[float, float]], mask: list[int], *,
    net_size: tuple[int, int], ignore_thresh: float, truth_thresh: float,
) -> Tensor:  # fmt: skip
    """darknet's yolo layer: its delta; anchors in pixels of the network's input."""
    height, width = output.shape[-2:]
    out, delta = activated(output, softmax=False), torch.zeros_like(output)
    shares = [(w / net_size[1], h / net_size[0]) for w, h in anchors]
    boxes = boxes_of(output, [shares[n] for n in mask])

    def train(at: tuple[int, ...], obj: Object) -> None:
        b, a, j, i = at
        error = box_target(obj, at, shares[mask[a]], output) - out[b, a, :4, j, i]
        delta[b, a, :4, j, i] = (2 - obj[2] * obj[3]) * error
        delta[b, a, 4, j, i] = 1 - out[b, a, 4, j, i]
        darknet_classes(delta[b, a, 5:, j, i], out[b, a, 5:, j, i], obj[4], 1.0, several=True)

    for at in cells(output):
        b, a, j, i = at
        overlaps = [iou(boxes[at], obj[:4]) for obj in objects[b]]
        best = max(overlaps, default=0.0)
        delta[b, a, 4, j, i] = 0 if best > ignore_thresh else -out[b, a, 4, j, i]
        if best > truth_thresh:
            train(at, objects[b][first_best(overlaps)])
    for b, image in enumerate(objects):
        for obj in image:
            n = first_best([shape_iou(obj[2:4], size) for size in shares])
            if n in mask:
                train((b, mask.index(n), int(obj[1] * height), int(obj[0] * width)), obj)
    return delta


def region_port(
    output: Tensor, objects: Objects, anchors: list[tuple[float, float]], *, seen: int, thresh: float,
    object_scale: float, noobject_scale: float, class_scale: float, coord_scale: float,
) -> Tensor:  # fmt: skip
    """pytorch-yolo2's loss, differentiable; anchors in cells."""
    height, width = output.shape[-2:]
    shares = [(w / width, h / height) for w, h in anchors]
    boxes = boxes_of(output.detach(), shares)
    owner: dict[tuple[int, ...], Object] = {}
    for b, image in enumerate(objects):
        for obj in image:
            a = first_best([shape_iou(obj[2:4], size) for size in shares])
            owner[b, a, int(obj[1] * height), int(obj[0] * width)] = obj
    loss = output.sum() * 0
    for at in cells(output):
        b, a, j, i = at
        said = output[b, a, :, j, i]
        place = torch.cat([said[:2].sigmoid(), said[2:4]])
        obj = owner.get(at)
        if obj is not None:
            loss = loss + coord_scale * (place - box_target(obj, at, shares[a], output)).square().sum() / 2
            loss = loss + object_scale * (said[4].sigmoid() - iou(boxes[at], obj[:4])) ** 2 / 2
            loss = loss + class_scale * F.cross_entropy(said[5:], torch.tensor(obj[4]))
            continue
        if seen < 12800:
            loss = loss + coord_scale * (place - torch.tensor(PRIOR)).square().sum() / 2
        if max((iou(boxes[at], other[:4]) for other in objects[b]), default=0.0) <= thresh:
            loss = loss + noobject_scale * said[4].sigmoid() ** 2 / 2
    return loss


def yolov3_layer(
    output: Tensor, objects: Objects, anchors: list[tuple[float, float]], *, ignore_thresh: float, anchor_offset: float
) -> Tensor:
    """PyTorch-YOLOv3's loss of 2018 without its flaws, differentiable; anchors in cells."""
    height, width = output.shape[-2:]
    owner: dict[tuple[int, ...], Object] = {}
    ignored = set()
    for b, image in enumerate(objects):
        for obj in image:
            size = (obj[2] * width + anchor_offset, obj[3] * height + anchor_offset)
            similar = [shape_iou(size, (w + anchor_offset, h + anchor_offset)) for w, h in anchors]
            j, i = int(obj[1] * height), int(obj[0] * width)
            owner[b, first_best(similar), j, i] = obj
            ignored |= {(b, a, j, i) for a, value in enumerate(similar) if value > ignore_thresh}
    terms: dict[str, list[Tensor]] = {"box": [], "object": [], "background": [], "class": []}
    for at in cells(output):
        b, a, j, i = at
        said = output[b, a, :, j, i]
        if at in owner:
            anchor = (anchors[a][0] / width, anchors[a][1] / height)
            place = torch.cat([said[:2].sigmoid(), said[2:4]])
            terms["box"].append((place - box_target(owner[at], at, anchor, output)).square().sum())
            terms["object"].append(F.softplus(-said[4]))
            terms["class"].append(F.cross_entropy(said[5:], torch.tensor(owner[at][4])) / len(output))
        elif at not in ignored:
            terms["background"].append(F.softplus(said[4]))
    return sum((torch.stack(term).mean() for term in terms.values() if term), output.sum() * 0)


def ciou(p: Tensor, t: Tensor, eps: float = 1e-9) -> Tensor:
    """CIoU of two boxes of centre and size, its weight detached, eps added to both heights, union and diagonal."""
    low, high = [torch.stack([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2]) for box in (p, t)]
    sides = (torch.minimum(low[1], high[1]) - torch.maximum(low[0], high[0])).clamp(min=0)
    hull = torch.maximum(low[1], high[1]) - torch.minimum(low[0], high[0])
    inner = sides.prod()
    overlap = inner / (p[2:].prod() + t[2:].prod() - inner + eps)
    v = 4 / math.pi**2 * (torch.atan(t[2] / (t[3] + eps)) - torch.atan(p[2] / (p[3] + eps))) ** 2
    alpha = (v / (1 + eps - overlap + v)).detach()
    return overlap - (p[:2] - t[:2]).square().sum() / (hull.square().sum() + eps) - alpha * v


def yolov3(
    outputs: list[Tensor], objects: Objects, anchors: list[list[tuple[float, float]]], *, ratio_thresh: float,
    box_gain: float, objectness_gain: float, class_gain: float,
) -> Tensor:  # fmt: skip
    """PyTorch-YOLOv3's current loss, differentiable; anchors in cells."""
    total = sum(output.sum() * 0 for output in outputs)
    for output, own in zip(outputs, anchors, strict=True):
        height, width = output.shape[-2:]
        goal = torch.zeros_like(output[:, :, 4])
        boxes, classes = [], []
        for b, image in enumerate(objects):
            for obj in image:
                x, y, w, h = obj[0] * width, obj[1] * height, obj[2] * width, obj[3] * height
                i, j = int(x), int(y)
                for a, (aw, ah) in enumerate(own):
                    if max(w / aw, aw / w, h / ah, ah / h) >= ratio_thresh:
                        continue
                    said = output[b, a, :, j, i]
                    place = torch.cat([said[:2].sigmoid(), said[2:4].exp() * torch.tensor([aw, ah])])
                    value = ciou(place, torch.tensor([x - i, y - j, w, h]))
                    boxes.append(1 - value)
                    goal[b, a, j, i] = value.detach().clamp(min=0)
                    wanted = F.one_hot(torch.tensor(obj[4]), len(said) - 5).double()
                    classes.append(F.binary_cross_entropy_with_logits(said[5:], wanted))
        if boxes:
            total = total + box_gain * torch.stack(boxes).mean()
            if output.shape[2] > 6:
                total = total + class_gain * torch.stack(classes).mean()
        total = total + objectness_gain * F.binary_cross_entropy_with_logits(output[:, :, 4], goal)
    return total
