"""The two other YOLOv2 ports, put together in a few lines from the parts that `region_loss` is made of.

They show that the parts are right under other conventions; nobody needs to train with them.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import grid_losses_in_loops as loops
from boxwright.boxes import aligned_iou, box_iou, cxcywh_to_xyxy, xyxy_to_cxcywh
from boxwright.losses.systems.cells import (
    at_owner,
    centered_iou,
    decode_cells,
    last_owner,
    own_cell,
    read_cells,
    slot_of,
    summed_classes,
)
from boxwright.losses.systems.region import region_targets
from goldens import golden_cases, load_case
from grid_scenes import Scene
from loop_checks import EXACT, same

Terms = dict[str, Tensor]


def andyyun(
    output: Tensor, boxes: Tensor, labels: Tensor, valid: Tensor, *, anchors: Tensor, seen: int, thresh: float,
    object_scale: float, noobject_scale: float, class_scale: float, coord_scale: float, rescore: bool,
) -> Terms:  # fmt: skip
    """It trains with darknet's reported cost: weights multiply before squaring, and all is divided by the batch."""
    cells, grid = read_cells(output, anchors)
    targets = region_targets(
        cells.detach(), boxes, labels, valid, anchors=anchors, grid=grid, thresh=thresh, rescore=rescore
    )
    owned = targets.class_weight.bool()
    prior = torch.tensor([0.5, 0.5, 0.0, 0.0], dtype=output.dtype)
    wanted = torch.where(owned.unsqueeze(-1), torch.cat([targets.xy, targets.wh], -1), prior)
    box_weight = torch.where(owned, 2 - targets.box_weight, 0.01 if seen < 12800 else 0.0)
    weight = torch.where(owned, object_scale, noobject_scale * targets.objectness_weight)
    said = torch.cat([cells[..., :2].sigmoid(), cells[..., 2:4]], -1)
    terms = {
        "coord": coord_scale * (box_weight.unsqueeze(-1) * (said - wanted)).square().sum(),
        "conf": (weight * (cells[..., 4].sigmoid() - targets.objectness)).square().sum(),
        "cls": -class_scale * (cells[..., 5:].log_softmax(-1) * targets.classes).sum(),
    }
    return {name: term / len(output) for name, term in terms.items()}


@pytest.mark.parametrize("file", golden_cases("losses/yolov2_region_andyyun"))
def test_andyyun(file: Path) -> None:
    case = load_case(file)
    output, rows = case["in_output"].requires_grad_(), case["in_target"].unflatten(1, (-1, 5))
    objects = rows[..., 1:], rows[..., 0].long(), (rows[..., 1] != 0).long().cumprod(1).bool()
    names = ("seen", "thresh", "object_scale", "noobject_scale", "class_scale", "coord_scale", "rescore")
    terms = andyyun(
        output, *objects, anchors=case["in_anchors"].view(-1, 2), **{name: case.param(name) for name in names}
    )
    for name, term in terms.items():
        torch.testing.assert_close(term, case[f"out_loss_{name}"], **EXACT)
    sum(terms.values()).backward()
    torch.testing.assert_close(output.grad, case["grad_output"], **EXACT)


def longcw(
    output: Tensor, pixels: Tensor, labels: Tensor, valid: Tensor, *, anchors: Tensor, net_size: tuple[int, int],
    iou_thresh: float, object_scale: float, noobject_scale: float, class_scale: float, coord_scale: float,
) -> Terms:  # fmt: skip
    """It regresses exp(w), squares probabilities of classes, counts the last pixel, and adds 1 to sizes in cells."""
    cells, grid = read_cells(output, anchors)
    frame = torch.tensor([net_size[1] / grid.width, net_size[0] / grid.height]).repeat(2).to(cells)
    objects = xyxy_to_cxcywh(pixels / frame)
    predicted = decode_cells(cells.detach(), anchors, grid)
    corners = cxcywh_to_xyxy(predicted) * frame

    # the flaw: an inclusive-pixel size, but in cells
    slot = slot_of(objects, centered_iou(objects[..., None, 2:] + 1, anchors).argmax(-1), grid)
    owner = last_owner(slot, valid, grid.slots)
    owned = (owner >= 0).to(cells)
    confidence = cells[..., 4].sigmoid()
    overlap = (box_iou(corners, pixels, offset=1.0) * valid.unsqueeze(1)).amax(-1)
    iou = aligned_iou(corners, at_owner(pixels, owner), offset=1.0) * owned
    background = noobject_scale * confidence.detach() * (overlap <= iou_thresh)
    mask = torch.where(owned.bool(), object_scale * (1 - confidence.detach()), -background)
    own = at_owner(objects, owner)
    shapes = anchors.repeat_interleave(grid.height * grid.width, dim=0)
    relative = torch.cat([own[..., :2] - own_cell(grid, cells.device), own[..., 2:] / shapes], -1)
    default = torch.tensor([0.5, 0.5, 1.0, 1.0], dtype=cells.dtype)
    said = torch.cat([cells[..., :2].sigmoid(), cells[..., 2:4].exp()], -1)
    box_mask = torch.where(owned.bool(), coord_scale, 0.01).unsqueeze(-1)
    classes = summed_classes(slot, labels, valid, grid.slots, cells.shape[-1] - 5)
    error = cells[..., 5:].softmax(-1) - classes
    terms = {
        "bbox": (box_mask * (said - torch.where(owned.bool().unsqueeze(-1), relative, default))).square().sum(),
        "iou": ((confidence - iou) * mask).square().sum(),
        "cls": (class_scale * owned.unsqueeze(-1) * error).square().sum(),
    }
    return {name: term / valid.sum() for name, term in terms.items()}


@pytest.mark.parametrize("file", golden_cases("losses/yolov2_longcw"))
def test_longcw(file: Path) -> None:
    case = load_case(file)
    output = case["in_output"].requires_grad_()
    names = ("iou_thresh", "object_scale", "noobject_scale", "class_scale", "coord_scale")
    terms = longcw(
        output,
        *padded(case, len(output)),
        anchors=case["in_anchors"],
        net_size=(case.param("inp_h"), case.param("inp_w")),
        **{name: case.param(name) for name in names},
    )
    for name, term in terms.items():
        torch.testing.assert_close(term, case[f"out_{name}_loss"], **EXACT)
    sum(terms.values()).backward()
    torch.testing.assert_close(output.grad, case["grad_output"], **EXACT)


def padded(case: dict[str, Tensor], images: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes in pixels, labels, valid (B, G) of the arrays per image."""
    most = max(len(case[f"in_gt_boxes_img{image}"]) for image in range(images))
    boxes, labels = torch.zeros(images, most, 4, dtype=torch.float64), torch.zeros(images, most, dtype=torch.int64)
    valid = torch.zeros(images, most, dtype=torch.bool)
    for image in range(images):
        count = len(case[f"in_gt_boxes_img{image}"])
        boxes[image, :count], labels[image, :count] = case[f"in_gt_boxes_img{image}"], case[f"in_gt_classes_img{image}"]
        valid[image, :count] = True
    return boxes, labels, valid


def test_anchors_are_chosen_without_the_extra_cell() -> None:
    """longcw's flaw: a size of 1.2 cells is compared as 2.2, so that an anchor of 2 wins over one of 1."""
    sizes, anchors = torch.tensor([1.2, 1.2]), torch.tensor([[1.0, 1.0], [2.0, 2.0]])
    assert centered_iou(sizes + 1, anchors).argmax().item() == 1
    assert centered_iou(sizes, anchors).argmax().item() == 0


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("seed", range(8))
def test_andyyun_in_loops(seed: int) -> None:
    scene = Scene(seed)
    output, scales = scene.output(), scene.scales()
    scales |= {"seen": scene.draw.choice((0, 12800)), "rescore": scene.draw.random() < 0.5}
    boxes, labels, valid = scene.padded()
    anchors = torch.tensor(scene.cells)
    terms = andyyun(output.flatten(1, 2), boxes, labels, valid, anchors=anchors, **scales)
    height, width = output.shape[-2:]
    shares = [(w / width, h / height) for w, h in anchors.tolist()]
    predicted = loops.boxes_of(output.detach(), shares)
    owner = {}
    for b, image in enumerate(scene.objects):
        for obj in image:
            a = loops.first_best([loops.shape_iou(obj[2:4], size) for size in shares])
            owner[b, a, int(obj[1] * height), int(obj[0] * width)] = obj
    total = output.sum() * 0
    for at in loops.cells(output):
        b, a, j, i = at
        said = output[b, a, :, j, i]
        place, p = torch.cat([said[:2].sigmoid(), said[2:4]]), said[4].sigmoid()
        if at in owner:
            obj = owner[at]
            error = place - loops.box_target(obj, at, shares[a], output)
            goal = loops.iou(predicted[at], obj[:4]) if scales["rescore"] else 1.0
            total = total + scales["coord_scale"] * ((2 - obj[2] * obj[3]) * error).square().sum()
            total = total + (scales["object_scale"] * (p - goal)) ** 2
            total = total - scales["class_scale"] * said[5:].log_softmax(-1)[obj[4]]
            continue
        if scales["seen"] < 12800:
            total = total + scales["coord_scale"] * (0.01 * (place - torch.tensor(loops.PRIOR))).square().sum()
        if max((loops.iou(predicted[at], obj[:4]) for obj in scene.objects[b]), default=0.0) <= scales["thresh"]:
            total = total + (scales["noobject_scale"] * p) ** 2
    same(sum(terms.values()), total / len(output), output)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("seed", range(8))
def test_longcw_in_loops(seed: int) -> None:
    scene = Scene(seed)
    scene.objects[0].append(scene.draw_object())  # it has no loss without any
    output, scales = scene.output(), scene.scales()
    scales["iou_thresh"] = scales.pop("thresh")
    height, width = output.shape[-2:]
    size = (32 * height, 24 * width)
    boxes, labels, valid = scene.padded()
    frame = torch.tensor([24 * width, 32 * height] * 2)
    pixels, anchors = cxcywh_to_xyxy(boxes * frame), torch.tensor(scene.cells)
    terms = longcw(output.flatten(1, 2), pixels, labels, valid, anchors=anchors, net_size=size, **scales)
    shares = [(w / width, h / height) for w, h in anchors.tolist()]
    predicted = loops.boxes_of(output.detach(), shares)
    owner: dict[tuple[int, ...], Any] = {}
    classes: dict[tuple[int, ...], set[int]] = {}
    for b, image in enumerate(scene.objects):
        for obj in image:
            grown = (obj[2] * width + 1, obj[3] * height + 1)
            a = loops.first_best([loops.shape_iou(grown, shape) for shape in anchors.tolist()])
            at = (b, a, int(obj[1] * height), int(obj[0] * width))
            owner[at] = obj
            classes.setdefault(at, set()).add(obj[4])
    total = output.sum() * 0
    for at in loops.cells(output):
        b, a, j, i = at
        said = output[b, a, :, j, i]
        place, p = torch.cat([said[:2].sigmoid(), said[2:4].exp()]), said[4].sigmoid()
        if at in owner:
            x, y, w, h, _ = owner[at]
            wanted = torch.tensor([x * width - i, y * height - j, w / shares[a][0], h / shares[a][1]])
            total = total + (scales["coord_scale"] * (place - wanted)).square().sum()
            iou = pixel_iou(predicted[at], owner[at], size)
            total = total + ((p - iou) * scales["object_scale"] * (1 - p.detach())) ** 2
            one = torch.tensor([float(c in classes[at]) for c in range(len(said) - 5)])
            total = total + (scales["class_scale"] * (said[5:].softmax(-1) - one)).square().sum()
            continue
        total = total + (0.01 * (place - torch.tensor([0.5, 0.5, 1.0, 1.0]))).square().sum()
        if max((pixel_iou(predicted[at], obj, size) for obj in scene.objects[b]), default=0.0) <= scales["iou_thresh"]:
            total = total + (scales["noobject_scale"] * p.detach() * p) ** 2
    same(sum(terms.values()), total / sum(map(len, scene.objects)), output)


def pixel_iou(a: tuple[float, ...], b: tuple[float, ...], size: tuple[int, int]) -> float:
    """IoU of two boxes, fractions of the image, that end with the last of their pixels."""
    inner, areas = 1.0, [1.0, 1.0]
    for k, side in ((0, size[1]), (1, size[0])):
        low, high = [[(box[k] + sign * box[k + 2] / 2) * side for box in (a, b)] for sign in (-1, 1)]
        inner *= max(0.0, min(high) - max(low) + 1)
        areas = [area * (end - start + 1) for area, start, end in zip(areas, low, high, strict=True)]
    return inner / (sum(areas) - inner)
