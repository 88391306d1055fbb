"""The grid losses against loops, with hyper-parameters, grids and numbers of objects drawn at random, in float64."""

import pytest
import torch
from torch import Tensor

import grid_losses_in_loops as loops
from boxwright.losses.systems import darknet_yolo_loss, region_loss, yolov3_layer_loss, yolov3_loss
from grid_scenes import Scene

SEEDS = range(12)
pytestmark = pytest.mark.usefixtures("float64")
EXACT = {"rtol": 1e-9, "atol": 1e-9}


def same(loss: dict[str, Tensor], value: Tensor, inputs: list[Tensor], gradients: list[Tensor]) -> None:
    total = torch.stack(list(loss.values())).sum()
    torch.testing.assert_close(total, value, **EXACT)
    torch.testing.assert_close(list(torch.autograd.grad(total, inputs)), gradients, **EXACT)


@pytest.mark.parametrize("seed", SEEDS)
def test_darknets_region_layer(seed: int) -> None:
    scene = Scene(seed)
    output, scales = scene.output(), scene.scales()
    scales["seen"] = scene.draw.choice((0, 12799, 12800, 50000))
    flags = {name: scene.draw.random() < 0.5 for name in ("rescore", "softmax", "bias_match")}
    delta = loops.region_delta(output.detach(), scene.objects, scene.cells, **scales, **flags)
    loss = region_loss(output.flatten(1, 2), *scene.padded(), anchors=torch.tensor(scene.cells), **scales, **flags)
    same(loss, delta.square().sum(), [output], [-delta])


@pytest.mark.parametrize("seed", SEEDS)
def test_the_region_loss_of_pytorch_yolo2(seed: int) -> None:
    scene = Scene(seed)
    output, scales = scene.output(), scene.scales()
    scales["seen"] = scene.draw.choice((0, 12800))
    expected = loops.region_port(output, scene.objects, scene.cells, **scales)
    anchors = torch.tensor(scene.cells)
    loss = region_loss(output.flatten(1, 2), *scene.padded(), anchors=anchors, form="pytorch-yolo2", **scales)
    same(loss, expected, [output], list(torch.autograd.grad(expected, output)))


@pytest.mark.parametrize("seed", SEEDS)
def test_darknets_yolo_layer(seed: int) -> None:
    scene = Scene(seed)
    output, net_size = scene.output(), (32 * scene.height, 32 * scene.width)
    anchors = [(scene.draw.uniform(5, 150), scene.draw.uniform(5, 150)) for _ in range(scene.anchors + 3)]
    mask = scene.draw.sample(range(len(anchors)), scene.anchors)
    ignore = scene.draw.uniform(0.05, 0.7)
    options = {"net_size": net_size, "ignore_thresh": ignore, "truth_thresh": scene.draw.choice((1.0, ignore + 0.1))}
    delta = loops.yolo_delta(output.detach(), scene.objects, anchors, mask, **options)
    loss = darknet_yolo_loss(output.flatten(1, 2), *scene.padded(), anchors=torch.tensor(anchors), mask=mask, **options)
    same(loss, delta.square().sum(), [output], [-delta])


@pytest.mark.parametrize("seed", SEEDS)
def test_yolov3_of_2018(seed: int) -> None:
    scene = Scene(seed)
    output = scene.output()
    options = {"ignore_thresh": scene.draw.uniform(0.1, 0.8), "anchor_offset": scene.draw.choice((0.0, 1.0))}
    expected = loops.yolov3_layer(output, scene.objects, scene.cells, **options)
    loss = yolov3_layer_loss(output.flatten(1, 2), *scene.padded(), anchors=torch.tensor(scene.cells), **options)
    same(loss, expected, [output], list(torch.autograd.grad(expected, output)))


@pytest.mark.parametrize("seed", SEEDS)
def test_yolov3_of_today(seed: int) -> None:
    scene = Scene(seed)
    sizes = [(scene.height, scene.width), (2 * scene.height, 2 * scene.width)]
    counts = [scene.anchors, scene.draw.randint(1, 3)]
    outputs = [scene.output(count, size) for count, size in zip(counts, sizes, strict=True)]
    anchors = [[(scene.draw.uniform(0.3, 4), scene.draw.uniform(0.3, 4)) for _ in range(count)] for count in counts]
    names = ("box_gain", "objectness_gain", "class_gain")
    options = {name: scene.draw.uniform(0.05, 2) for name in names} | {"ratio_thresh": scene.draw.uniform(1.5, 6)}
    expected = loops.yolov3(outputs, scene.objects, anchors, **options)
    flat, own = [output.flatten(1, 2) for output in outputs], [torch.tensor(scale) for scale in anchors]
    loss = yolov3_loss(flat, *scene.padded(), anchors=own, **options)
    same(loss, expected, outputs, list(torch.autograd.grad(expected, outputs)))
