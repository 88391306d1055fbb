"""No whole loss looks at its tensors on the host, nor sends it any: on the device without memory either would show."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from boxwright.losses import SigmoidFocalLoss, SoftmaxCrossEntropyLoss, VarifocalLoss
from boxwright.losses.systems import (
    RegionLoss,
    StageOutput,
    darknet_yolo_loss,
    faster_rcnn_loss,
    gfl_loss,
    longcw_loss,
    multibox_loss,
    region_loss,
    set_prediction_loss,
    tood_loss,
    tood_warmup_loss,
    yolov3_layer_loss,
    yolov3_loss,
)

Terms = dict[str, Tensor]


class NoHost(TorchDispatchMode):
    """Raises where an operation reads or writes a tensor of the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        places = {leaf.device.type for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)}
        assert places <= {"meta"}, f"{func} between {sorted(places)}"
        return out


def real(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta", requires_grad=True)


def fixed(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def labels(*shape: int) -> Tensor:
    return fixed(*shape, dtype=torch.int64)


GRID = real(2, 16, 5, 6), fixed(2, 4, 4), labels(2, 4), fixed(2, 4, dtype=torch.bool)
ANCHORS = fixed(2, 2)
MATCHED = labels(2, 7), fixed(2, 7, 4)
REGION = RegionLoss(((1.0, 1.5), (3.0, 2.0))).to("meta")


def stage(classes: int) -> StageOutput:
    return StageOutput(real(7, classes), labels(7), real(7, 12), fixed(7, 12), fixed(7, 12), fixed(7, 12))


def queries(loss: Any, **options: Any) -> Callable[[], Terms]:
    return lambda: set_prediction_loss(real(2, 7, 3), real(2, 7, 4), *MATCHED, loss, **options)


SYSTEMS: dict[str, Callable[[], Terms]] = {
    "region": lambda: region_loss(*GRID, anchors=ANCHORS, seen=0),
    "region, sizes": lambda: region_loss(*GRID, anchors=ANCHORS, seen=0, bias_match=False, softmax=False),
    "region, port": lambda: region_loss(*GRID, anchors=ANCHORS, seen=0, form="pytorch-yolo2"),
    "region, andy-yun": lambda: region_loss(*GRID, anchors=ANCHORS, seen=0, form="andy-yun"),
    "longcw": lambda: longcw_loss(*GRID, anchors=ANCHORS, net_size=(160, 192)),
    "region, module": lambda: REGION(*GRID),
    "yolo": lambda: darknet_yolo_loss(*GRID, anchors=fixed(6, 2), mask=(0, 4), net_size=(160, 192), truth_thresh=0.7),
    "yolov3, 2018": lambda: yolov3_layer_loss(*GRID, anchors=ANCHORS),
    "yolov3": lambda: yolov3_loss([GRID[0], GRID[0]], *GRID[1:], anchors=[ANCHORS, ANCHORS]),
    "ssd": lambda: multibox_loss(real(2, 7, 4), real(2, 7, 3), fixed(2, 7, 4), labels(2, 7)),
    "faster r-cnn": lambda: faster_rcnn_loss(stage(2), stage(4)),
    "gfl": lambda: gfl_loss(real(2, 7, 3), real(2, 7, 4, 9), *MATCHED, fixed(7, 2), fixed(7)),
    "tood": lambda: tood_loss(real(2, 7, 3), real(2, 7, 4), *MATCHED, fixed(2, 7), from_logits=True),
    "tood, warm-up": lambda: tood_warmup_loss(real(2, 7, 3), real(2, 7, 4), *MATCHED, fixed(7, 2), from_logits=True),
    "detr": queries(SoftmaxCrossEntropyLoss(), background_weight=0.1),
    "rt-detr": queries(VarifocalLoss(detach=True)),
    "deformable detr": queries(SigmoidFocalLoss()),
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_nothing_goes_through_the_host(system: str) -> None:
    with NoHost():
        sum(SYSTEMS[system]().values()).backward()


def test_the_host_would_be_noticed() -> None:
    with pytest.raises(AssertionError, match="cpu"), NoHost():
        real(3) + torch.tensor([1.0]).to("meta")
