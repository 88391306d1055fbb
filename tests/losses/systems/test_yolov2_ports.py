"""The two other YOLOv2 ports, andy-yun's and longcw's, against golden data and against loops."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import grid_losses_in_loops as loops
from boxwright.boxes.formats import scale_boxes, xyxy_to_cxcywh
from boxwright.losses.systems import longcw_loss, region_loss
from goldens import Case, golden_cases, load_case
from grid_scenes import Scene
from loop_checks import EXACT, same


@pytest.mark.parametrize("file", golden_cases("losses/yolov2_region_andyyun"))
def test_andyyun(file: Path) -> None:
    case = load_case(file)
    output, rows = case["in_output"].requires_grad_(), case["in_target"].unflatten(1, (-1, 5))
    objects = rows[..., 1:], rows[..., 0].long(), (rows[..., 1] != 0).long().cumprod(1).bool()
    names = ("seen", "thresh", "object_scale", "noobject_scale", "class_scale", "coord_scale", "rescore")
    options = {name: case.param(name) for name in names} | {"rescore": bool(case.param("rescore"))}
    terms = region_loss(output, *objects, anchors=case["in_anchors"].view(-1, 2), form="andy-yun", **options)
    terms = {name: term / len(output) for name, term in terms.items()}
    for ours, theirs in (("box", "coord"), ("objectness", "conf"), ("class", "cls")):
        torch.testing.assert_close(terms[ours], case[f"out_loss_{theirs}"], **EXACT)
    sum(terms.values()).backward()
    torch.testing.assert_close(output.grad, case["grad_output"], **EXACT)


@pytest.mark.parametrize("file", golden_cases("losses/yolov2_longcw"))
def test_longcw(file: Path) -> None:
    case = load_case(file)
    output = case["in_output"].requires_grad_()
    names = ("iou_thresh", "object_scale", "noobject_scale", "class_scale", "coord_scale")
    size = case.param("inp_h"), case.param("inp_w")
    options = {name: case.param(name) for name in names}
    objects = padded(case, len(output), size)
    terms = longcw_loss(output, *objects, anchors=case["in_anchors"], net_size=size, anchor_offset=1.0, **options)
    for ours, theirs in (("box", "bbox"), ("objectness", "iou"), ("class", "cls")):
        torch.testing.assert_close(terms[ours], case[f"out_{theirs}_loss"], **EXACT)
    sum(terms.values()).backward()
    torch.testing.assert_close(output.grad, case["grad_output"], **EXACT)


def padded(case: Case, images: int, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes as fractions of the image, labels, valid (B, G) of the arrays per image."""
    most = max(len(case[f"in_gt_boxes_img{image}"]) for image in range(images))
    boxes, labels = torch.zeros(images, most, 4, dtype=torch.float64), torch.zeros(images, most, dtype=torch.int64)
    valid = torch.zeros(images, most, dtype=torch.bool)
    for image in range(images):
        count = len(case[f"in_gt_boxes_img{image}"])
        boxes[image, :count], labels[image, :count] = case[f"in_gt_boxes_img{image}"], case[f"in_gt_classes_img{image}"]
        valid[image, :count] = True
    return scale_boxes(xyxy_to_cxcywh(boxes), 1 / size[1], 1 / size[0]), labels, valid


def test_anchors_are_chosen_without_the_extra_cell() -> None:
    """longcw's flaw: a size of 1.2 cells is compared as 2.2, so that an anchor of 2 wins over one of 1."""
    output, anchors = torch.zeros(1, 2 * 7, 4, 4, requires_grad=True), torch.tensor([[1.0, 1.0], [2.0, 2.0]])
    one = torch.tensor([[[0.4, 0.4, 0.3, 0.3]]]), torch.zeros(1, 1).long(), torch.ones(1, 1).bool()
    for offset, anchor in ((0.0, 0), (1.0, 1)):
        terms = longcw_loss(output, *one, anchors=anchors, net_size=(64, 64), anchor_offset=offset)
        pulled = torch.autograd.grad(terms["class"], output)[0].view(2, 7, 4, 4)[:, 5] < 0
        assert pulled.nonzero().tolist() == [[anchor, 1, 1]]


def test_images_without_objects_are_background_to_longcw() -> None:
    """Flaw 6: the original fails."""
    output = torch.randn(2, 2 * 7, 3, 3, requires_grad=True)
    nobody = torch.zeros(2, 1, 4), torch.zeros(2, 1).long(), torch.zeros(2, 1).bool()
    terms = longcw_loss(output, *nobody, anchors=torch.ones(2, 2), net_size=(96, 96))
    torch.testing.assert_close(terms["objectness"], output.view(2, 2, 7, 3, 3)[:, :, 4].sigmoid().pow(4).sum())
    assert terms["class"] == 0
    sum(terms.values()).backward()
    assert output.grad.isfinite().all()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("seed", range(8))
def test_andyyun_in_loops(seed: int) -> None:
    scene = Scene(seed)
    output, scales = scene.output(), scene.scales()
    scales |= {"seen": scene.draw.choice((0, 12800)), "rescore": scene.draw.random() < 0.5}
    anchors = torch.tensor(scene.cells)
    terms = region_loss(output.flatten(1, 2), *scene.padded(), anchors=anchors, form="andy-yun", warmup=12800, **scales)
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
    same(sum(terms.values()), total, output)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("seed", range(8))
def test_longcw_in_loops(seed: int) -> None:
    scene = Scene(seed)
    scene.objects[0].append(scene.draw_object())  # it has no loss without any
    output, scales = scene.output(), scene.scales()
    scales["iou_thresh"] = scales.pop("thresh")
    height, width = output.shape[-2:]
    size = (32 * height, 24 * width)
    offset, anchors = scene.draw.choice((0.0, 1.0)), torch.tensor(scene.cells)
    options = scales | {"anchors": anchors, "net_size": size, "anchor_offset": offset}
    terms = longcw_loss(output.flatten(1, 2), *scene.padded(), **options)
    shares = [(w / width, h / height) for w, h in anchors.tolist()]
    predicted = loops.boxes_of(output.detach(), shares)
    owner: dict[tuple[int, ...], Any] = {}
    classes: dict[tuple[int, ...], set[int]] = {}
    for b, image in enumerate(scene.objects):
        for obj in image:
            grown = (obj[2] * width + offset, obj[3] * height + offset)
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
