"""The two other YOLOv2 ports, put together in a few lines from the parts that `region_loss` is made of.

They show that the parts are right under other conventions; nobody needs to train with them.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor

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

EXACT = {"rtol": 1e-9, "atol": 1e-9}


@pytest.mark.parametrize("file", golden_cases("losses/yolov2_region_andyyun"))
def test_andyyun(file: Path) -> None:
    """It trains with darknet's reported cost: weights multiply before squaring, and all is divided by the batch."""
    case = load_case(file)
    output, rows = case["in_output"].requires_grad_(), case["in_target"].unflatten(1, (-1, 5))
    anchors = case["in_anchors"].view(-1, 2)
    cells, grid = read_cells(output, anchors)
    targets = region_targets(
        cells.detach(),
        rows[..., 1:],
        rows[..., 0].long(),
        (rows[..., 1] != 0).long().cumprod(1).bool(),
        anchors=anchors,
        grid=grid,
        thresh=case.param("thresh"),
        rescore=bool(case.param("rescore")),
    )
    owned = targets.class_weight.bool()
    prior = torch.tensor([0.5, 0.5, 0.0, 0.0], dtype=output.dtype)
    wanted = torch.where(owned.unsqueeze(-1), torch.cat([targets.xy, targets.wh], -1), prior)
    box_weight = torch.where(owned, 2 - targets.box_weight, 0.01 if case.param("seen") < 12800 else 0.0)
    weight = torch.where(owned, case.param("object_scale"), case.param("noobject_scale") * targets.objectness_weight)
    said = torch.cat([cells[..., :2].sigmoid(), cells[..., 2:4]], -1)
    terms = {
        "coord": case.param("coord_scale") * (box_weight.unsqueeze(-1) * (said - wanted)).square().sum(),
        "conf": (weight * (cells[..., 4].sigmoid() - targets.objectness)).square().sum(),
        "cls": -case.param("class_scale") * (cells[..., 5:].log_softmax(-1) * targets.classes).sum(),
    }
    for name, term in terms.items():
        torch.testing.assert_close(term / len(output), case[f"out_loss_{name}"], **EXACT)
    (sum(terms.values()) / len(output)).backward()
    torch.testing.assert_close(output.grad, case["grad_output"], **EXACT)


@pytest.mark.parametrize("file", golden_cases("losses/yolov2_longcw"))
def test_longcw(file: Path) -> None:
    """It regresses exp(w), squares probabilities of classes, counts the last pixel, and adds 1 to sizes in cells."""
    case = load_case(file)
    output, anchors = case["in_output"].requires_grad_(), case["in_anchors"]
    cells, grid = read_cells(output, anchors)
    frame = torch.tensor([case.param("inp_w") / grid.width, case.param("inp_h") / grid.height]).repeat(2).to(cells)
    pixels, labels, valid = padded(case, len(output))
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
    background = case.param("noobject_scale") * confidence.detach() * (overlap <= case.param("iou_thresh"))
    mask = torch.where(owned.bool(), case.param("object_scale") * (1 - confidence.detach()), -background)
    own = at_owner(objects, owner)
    relative = torch.cat(
        [own[..., :2] - own_cell(grid, cells.device), own[..., 2:] / predicted_anchor(anchors, grid)], -1
    )
    default = torch.tensor([0.5, 0.5, 1.0, 1.0], dtype=cells.dtype)
    said = torch.cat([cells[..., :2].sigmoid(), cells[..., 2:4].exp()], -1)
    box_mask = torch.where(owned.bool(), case.param("coord_scale"), 0.01).unsqueeze(-1)
    classes = summed_classes(slot, labels, valid, grid.slots, cells.shape[-1] - 5)
    error = cells[..., 5:].softmax(-1) - classes
    terms = {
        "bbox": (box_mask * (said - torch.where(owned.bool().unsqueeze(-1), relative, default))).square().sum(),
        "iou": ((confidence - iou) * mask).square().sum(),
        "cls": (case.param("class_scale") * owned.unsqueeze(-1) * error).square().sum(),
    }
    for name, term in terms.items():
        torch.testing.assert_close(term / valid.sum(), case[f"out_{name}_loss"], **EXACT)
    (sum(terms.values()) / valid.sum()).backward()
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


def predicted_anchor(anchors: Tensor, grid: tuple[int, int, int]) -> Tensor:
    return anchors.repeat_interleave(grid[1] * grid[2], dim=0)


def test_anchors_are_chosen_without_the_extra_cell() -> None:
    """longcw's flaw: a size of 1.2 cells is compared as 2.2, so that an anchor of 2 wins over one of 1."""
    sizes, anchors = torch.tensor([1.2, 1.2]), torch.tensor([[1.0, 1.0], [2.0, 2.0]])
    assert centered_iou(sizes + 1, anchors).argmax().item() == 1
    assert centered_iou(sizes, anchors).argmax().item() == 0
