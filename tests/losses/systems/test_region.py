"""YOLOv2's loss against darknet, pytorch-yolo2, andy-yun's fork and longcw's version."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from boxwright.losses.systems import region_loss
from goldens import golden_cases, load_case

EXACT = {"rtol": 1e-9, "atol": 1e-9}
DARKNET = {"rtol": 5e-5, "atol": 5e-5}


def listed_objects(rows: Tensor, label: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, labels, valid of rows (B, G, 5) that end at the first whose x is 0; `label` is the column of the class."""
    boxes = rows[..., 1:] if label == 0 else rows[..., :4]
    return boxes, rows[..., label].long(), (boxes[..., 0] != 0).long().cumprod(1).bool()


@pytest.mark.parametrize("file", golden_cases("losses/yolov2_region_pytorch_yolo2"))
def test_the_port_matches_pytorch_yolo2(file: Path) -> None:
    case = load_case(file)
    output = case["in_output"].requires_grad_()
    names = ("thresh", "coord_scale", "noobject_scale", "object_scale", "class_scale", "seen")
    terms = region_loss(
        output,
        *listed_objects(case["in_target"].unflatten(1, (-1, 5)), label=0),
        anchors=case["in_anchors"].view(-1, 2),
        form="pytorch-yolo2",
        **{name: case.param(name) for name in names},
    )
    for ours, theirs in (("box", "coord"), ("objectness", "conf"), ("class", "cls")):
        torch.testing.assert_close(terms[ours], case[f"out_loss_{theirs}"], **EXACT)
    total = sum(terms.values())
    torch.testing.assert_close(total, case["out_loss"], **EXACT)
    total.backward()
    torch.testing.assert_close(output.grad, case["grad_output"], **EXACT)


@pytest.mark.parametrize("file", golden_cases("losses/darknet_region"))
def test_the_layer_matches_darknet(file: Path) -> None:
    case = load_case(file)
    output = case["in_input"].requires_grad_()
    scales = ("thresh", "coord_scale", "noobject_scale", "object_scale", "class_scale", "seen")
    terms = region_loss(
        output,
        *listed_objects(case["in_truth"], label=4),
        anchors=case["in_biases"].view(-1, 2),
        softmax=bool(case.param("softmax")),
        rescore=bool(case.param("rescore")),
        bias_match=bool(case.param("bias_match")),
        **{name: case.param(name) for name in scales},
    )
    total = sum(terms.values())
    torch.testing.assert_close(total, case["out_cost"].squeeze(), **DARKNET)
    total.backward()
    torch.testing.assert_close(-output.grad, case["out_delta"], **DARKNET)
