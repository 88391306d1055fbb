"""The dense assigners compile without a graph break, never wait for a device, and never hold a dense matrix."""

import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from assignment_scenes import make_predictions, make_priors, make_targets
from boxwright.assigners import (
    ATSSAssigner,
    DualAssigner,
    DynamicSoftLabelAssigner,
    MaxIoUAssigner,
    RatioGridAssigner,
    RPNAssigner,
    SimOTAAssigner,
    SSDAssigner,
    TaskAlignedAssigner,
    YOLOAssigner,
)

ASSIGNERS = {
    "max_iou": MaxIoUAssigner(),
    "atss": ATSSAssigner(),
    "atss paddle": ATSSAssigner.paddle(force_match=True, soft_scores=True),
    "tood": TaskAlignedAssigner(),
    "tood ultralytics": TaskAlignedAssigner.ultralytics(final_topk=7),
    "simota": SimOTAAssigner.mmdet(),
    "rtmdet": DynamicSoftLabelAssigner(),
    "dual": DualAssigner(),
    "ssd": SSDAssigner(),
    "yolo": YOLOAssigner(),
    "yolo by shape": YOLOAssigner(ignore_by="shape"),
    "ratio grid": RatioGridAssigner(),
    "rpn": RPNAssigner(count=16),
}
WAITING = {"_local_scalar_dense", "item", "nonzero", "masked_select", "is_nonzero", "_unique2", "unique_dim", "equal"}


class NoWaiting(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function.overloadpacket.__name__ not in WAITING, function
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket.__name__ in {"index", "index_put_"}:
            assert all(i is None or i.dtype != torch.bool for i in args[1]), "indexed by a mask"
        return result


def scene(images=2, objects=6):
    priors = make_priors(1)
    targets = make_targets(3, images, objects, hostile=False, crowd=True)
    return priors, targets, make_predictions(3, priors, images, hostile=False)


@pytest.mark.parametrize("name", ASSIGNERS)
def test_nothing_waits_for_the_device(name):
    with NoWaiting():
        ASSIGNERS[name](*scene())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["max_iou", "atss", "tood"])
def test_compiles_in_one_graph(name):
    priors, targets, predictions = scene(objects=3)
    compiled = torch.compile(ASSIGNERS[name], fullgraph=True, backend="aot_eager")
    assignment, expected = compiled(priors, targets, predictions), ASSIGNERS[name](priors, targets, predictions)
    assert torch.equal(assignment.gt_index, expected.gt_index)
    torch.testing.assert_close(assignment.score, expected.score)


CROWDED = """
import resource, torch
from boxwright.assigners import ATSSAssigner, TaskAlignedAssigner
from boxwright.boxes import AnchorGenerator
from boxwright.structures import Predictions, Targets

torch.manual_seed(0)
images, objects = {images}, {objects}
priors = AnchorGenerator.square((8, 16, 32))([(80, 80), (40, 40), (20, 20)])
low = torch.rand(images, objects, 2) * 600
boxes = torch.cat([low, low + 4 + torch.rand(images, objects, 2) * 60], -1)
flags = torch.ones(images, objects, dtype=torch.bool)
targets = Targets(boxes, torch.randint(0, 4, (images, objects)), flags, ~flags)
predicted = priors.boxes + torch.randn(images, len(priors), 4)
predictions = Predictions(torch.randn(images, len(priors), 4), torch.empty(0), boxes=predicted)
for assigner in (ATSSAssigner(), TaskAlignedAssigner()):
    assert assigner(priors, targets, predictions).positive.any()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)  # GiB
"""


@pytest.mark.slow
@pytest.mark.parametrize(("images", "objects"), [(1, 5000), (128, 586)])  # 5,000 and 75,008 objects
def test_crowds_fit_in_two_gigabytes(images, objects):
    """The whole process: interpreter, torch, inputs and results."""
    script = CROWDED.format(images=images, objects=objects)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 2.0
