"""The transforms of `torch.func` see every loss as ordinary operations."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from boxwright import losses
from boxwright.testing.problems import random_problem
from boxwright.testing.subject import Subject

CLASSES = 5
LOSSES: list[nn.Module] = [
    losses.SigmoidCrossEntropyLoss(),
    losses.SigmoidFocalLoss(),
    losses.QualityFocalLoss(),
    losses.VarifocalLoss(),
    losses.SoftmaxFocalLoss(),
    losses.SeesawLoss(CLASSES - 1).eval(),
    losses.GHMCLoss().eval(),
    losses.GIoULoss(),
    losses.CIoULoss(),
    losses.SIoULoss(),
    losses.BoundedIoULoss(),
    losses.BalancedL1Loss(),
    losses.GaussianLoss(),
    losses.DistributionFocalLoss(),
]


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_gradients_and_images_by_transforms(loss: nn.Module, dtype: torch.dtype) -> None:
    subject = Subject.of(loss)
    problem = random_problem(subject.kind).to(dtype)
    inputs, targets = problem.inputs, problem.targets
    state = dict(copy.deepcopy(loss).named_buffers())

    def value(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return functional_call(loss, state, (inputs, targets))

    _, expected = subject.value_and_gradient(problem.only(frozenset()), loss)
    torch.testing.assert_close(grad(value)(inputs, targets), expected)
    images = torch.stack([grad(value)(*image) for image in zip(inputs, targets, strict=True)])
    torch.testing.assert_close(vmap(grad(value))(inputs, targets), images)
