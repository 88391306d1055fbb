"""What the dense assigners need of memory where objects are many."""

import subprocess
import sys

import pytest

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
