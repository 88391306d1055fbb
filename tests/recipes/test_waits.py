"""No criterion makes the host wait for a GPU, found out without one (the backward pass is tried on a GPU only)."""

import pytest
import torch

from assignment_scenes import CLASSES
from boxwright.recipes import load_recipe, recipe_names
from boxwright.testing import check_never_waits
from swap import problem

OF_OTHER_KINDS = ("faster-rcnn", "darknet", "yolo")
DENSE = [name for name in recipe_names() if name.endswith("-tiny") and not name.startswith(OF_OTHER_KINDS)]


@pytest.mark.parametrize("name", DENSE)
def test_losses_never_wait(name):
    criterion, priors, targets, predictions = problem(load_recipe(name))
    if name == "retinanet-cb-tiny":
        criterion.classification.count_classes(torch.arange(1, CLASSES + 1))
    check_never_waits(criterion, predictions, priors, targets)
