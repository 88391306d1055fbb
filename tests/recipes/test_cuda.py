"""The criteria of the recipes on a GPU: the same losses and gradients as on the CPU, without a wait for the device."""

import copy

import pytest
import torch

from boxwright.recipes import build_detector, load_recipe, recipe_names
from boxwright.structures import Targets

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

# of two stages the second sees what the first proposes
NAMES = [name for name in recipe_names() if name.endswith("-tiny") and "rcnn" not in name]
TARGETS = [
    {"boxes": torch.tensor([[10.0, 8, 60, 40], [4, 4, 20, 20]]), "labels": torch.tensor([0, 1])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    {"boxes": torch.tensor([[30.0, 30, 90, 90], [60, 70, 80, 95], [5, 50, 25, 64]]), "labels": torch.tensor([1, 2, 0])},
]


def losses_and_gradients(criterion, predictions, priors, targets):
    """Return losses by name and the gradients of everything predicted."""
    leaves = predictions.map(lambda tensor: tensor.detach().clone().requires_grad_())
    losses = criterion(leaves, priors, targets)
    sum(losses.values()).backward()
    return losses, [leaf.grad for leaf in (leaves.logits, leaves.params, *leaves.extras.values())]


@pytest.mark.parametrize("name", NAMES)
def test_losses_and_gradients_are_those_of_the_cpu_and_nothing_waits(name):
    torch.manual_seed(0)
    recipe, counts = load_recipe(name, ["data.size=96"]), torch.tensor([3, 40, 9])
    detector = build_detector(recipe, ["a", "b", "c"], class_counts=counts, pretrained=False).train()
    targets = Targets.from_list(TARGETS)
    with torch.no_grad():
        predictions, priors = detector.predict(torch.rand(3, 3, 96, 96))
    criterion = copy.deepcopy(detector.criterion).cuda()
    expected = losses_and_gradients(detector.criterion, predictions, priors, targets)
    there = [value.to("cuda") for value in (predictions, priors, targets)]
    losses_and_gradients(copy.deepcopy(criterion), *there)  # what is compiled or tabulated once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = losses_and_gradients(criterion, *there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5, check_device=False)
